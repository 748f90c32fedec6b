//! The file or block device behind a disk: what it is, and what may be done to it. Runs on worker threads.

use crate::virtio::guest_io::Iovecs;
use crate::virtio::ring::Buffers;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use vm_memory::GuestMemoryMmap;

/// Bytes of a sector, the unit of virtio-blk whatever the disk's own is (virtio 1.2, 5.2.4).
pub const SECTOR: u64 = 512;

/// Zeros are written in pieces of this size where the file system cannot make them by itself.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file that cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// while looking at the disk image: {0}
    #[error("while looking at the disk image: {0}")]
    Inspect(io::Error),
    /// while opening the disk image: it has {0} bytes, which is no multiple of 512; extend it with `truncate -s %512 FILE`
    #[error(
        "while opening the disk image: it has {0} bytes, which is no multiple of 512; extend it with `truncate -s %512 FILE`"
    )]
    Length(u64),
    /// while opening the disk image: it was opened for reading only but the disk is to be written; give the disk as read-only
    #[error(
        "while opening the disk image: it was opened for reading only but the disk is to be written; give the disk as read-only"
    )]
    NotWritable,
    /// while opening the disk image: the disk is read-only but the file was opened for writing; open it for reading only
    #[error(
        "while opening the disk image: the disk is read-only but the file was opened for writing; open it for reading only"
    )]
    Writable,
    /// while starting the disk's threads: {0}
    #[error("while starting the disk's threads: {0}")]
    Threads(io::Error),
}

/// A run of bytes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Whether the space may be given back to the host (the `unmap` flag of write-zeroes; always for discard).
    pub unmap: bool,
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    bytes: u64,
}

impl Disk {
    /// Looks at `file`.
    ///
    /// # Errors
    /// When its length is not whole sectors, or it is not open for exactly what `readonly` says: then no mistake in this process
    /// can write a read-only disk.
    pub fn new(mut file: File, readonly: bool) -> Result<Self, DiskError> {
        let mode =
            rustix::fs::fcntl_getfl(&file).map_err(|e| DiskError::Inspect(e.into()))? & OFlags::ACCMODE;
        match (readonly, mode == OFlags::RDONLY, mode == OFlags::RDWR) {
            (true, true, _) | (false, _, true) => {}
            (true, false, _) => return Err(DiskError::Writable),
            (false, _, false) => return Err(DiskError::NotWritable),
        }
        // The end is the length of a block device too, where metadata says 0.
        let bytes = file.seek(SeekFrom::End(0)).map_err(DiskError::Inspect)?;
        if !bytes.is_multiple_of(SECTOR) {
            return Err(DiskError::Length(bytes));
        }
        Ok(Self { file, bytes })
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills guest memory if the page cache has it all; `None` when a worker has to.
    ///
    /// # Errors
    /// When the file system cannot tell.
    pub fn read_cached(
        &self,
        memory: &GuestMemoryMmap,
        offset: u64,
        data: &Buffers,
    ) -> io::Result<Option<()>> {
        let mut iovecs = Iovecs::of(memory, data)?;
        match iovecs.read_cached_at(self.file.as_fd(), offset) {
            Ok(bytes) => Ok((bytes == iovecs.len()).then_some(())),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(error),
            // Not in the cache, or an error: a worker meets it again and says so.
            Err(_) => Ok(None),
        }
    }

    /// Fills guest memory from the disk.
    pub fn read(&self, memory: &GuestMemoryMmap, offset: u64, data: &Buffers) -> io::Result<()> {
        Iovecs::of(memory, data)?.read_all_at(self.file.as_fd(), offset)
    }

    /// Writes guest memory to the disk.
    pub fn write(&self, memory: &GuestMemoryMmap, offset: u64, data: &Buffers) -> io::Result<()> {
        Iovecs::of(memory, data)?.write_all_at(self.file.as_fd(), offset)
    }

    /// Makes everything written so far survive a power failure.
    pub fn flush(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// Gives space back to the host.
    pub fn discard(&self, extents: &[Extent]) -> io::Result<()> {
        extents.iter().try_for_each(|extent| Ok(self.allocate(FallocateFlags::PUNCH_HOLE, extent)?))
    }

    /// Makes extents read as zeros.
    pub fn write_zeroes(&self, extents: &[Extent]) -> io::Result<()> {
        extents.iter().try_for_each(|extent| self.zero(extent))
    }

    fn zero(&self, extent: &Extent) -> io::Result<()> {
        let first = if extent.unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        for way in [first, FallocateFlags::ZERO_RANGE] {
            match self.allocate(way, extent) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                other => return Ok(other?),
            }
        }
        let (mut offset, end) = (extent.offset, extent.offset + extent.len);
        while offset < end {
            let piece = (end - offset).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..piece as usize], offset)?;
            offset += piece;
        }
        Ok(())
    }

    fn allocate(&self, how: FallocateFlags, extent: &Extent) -> Result<(), Errno> {
        loop {
            let flags = how | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(&self.file, flags, extent.offset, extent.len) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }
}
