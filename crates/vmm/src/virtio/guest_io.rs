//! System calls that read and write guest memory without a copy in between.
//!
//! ```text
//!   Buffers (guest addresses) ─► Iovecs (host addresses, borrowed from the guest memory) ─► readv, writev, preadv, pwritev
//! ```
//!
//! The kernel checks each page for us: a piece of a DAX window without a page behind it (file cut short, nothing mapped) makes
//! the call fail with EFAULT, where a load or store of ours would be a signal. So whatever is large goes through here.
#![expect(unsafe_code, reason = "guest memory is shared with the guest, so only raw pointers may name it")]

use super::ring::Buffers;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Most pieces of one system call: `UIO_MAXIOV` in Linux `include/uapi/linux/uio.h`.
pub const MAX_IOVECS: usize = 1024;

/// Pieces of memory for one transfer.
pub struct Iovecs<'m> {
    list: Vec<libc::iovec>,
    start: usize,
    len: usize,
    memory: PhantomData<&'m GuestMemoryMmap>,
}

impl Default for Iovecs<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'m> Iovecs<'m> {
    /// No pieces yet.
    pub fn new() -> Self {
        Self { list: Vec::new(), start: 0, len: 0, memory: PhantomData }
    }

    /// Pieces for all of `buffers`.
    pub fn of(memory: &'m GuestMemoryMmap, buffers: &Buffers) -> io::Result<Self> {
        let mut all = Self::new();
        all.push(memory, buffers)?;
        Ok(all)
    }

    /// Adds the pieces of `buffers`.
    ///
    /// # Errors
    /// EFAULT when they are not in guest memory.
    pub fn push(&mut self, memory: &'m GuestMemoryMmap, buffers: &Buffers) -> io::Result<()> {
        for segment in buffers.segments() {
            for slice in memory.get_slices(segment.address, segment.len as usize) {
                let slice = slice.map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
                let base = slice.ptr_guard_mut().as_ptr().cast();
                self.list.push(libc::iovec { iov_base: base, iov_len: slice.len() });
                self.len += slice.len();
            }
        }
        Ok(())
    }

    /// Adds a piece of our own memory.
    pub fn push_host(&mut self, buffer: &'m mut [u8]) {
        self.list.push(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
        self.len += buffer.len();
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of pieces left.
    pub fn pieces(&self) -> usize {
        self.list.len() - self.start
    }

    /// Leaves out the first `bytes`.
    pub fn advance(&mut self, bytes: usize) {
        let mut bytes = bytes.min(self.len);
        self.len -= bytes;
        while let Some(first) = self.list.get_mut(self.start).filter(|first| bytes > 0 || first.iov_len == 0)
        {
            let step = bytes.min(first.iov_len);
            // Still inside of the piece, or one past its end.
            first.iov_base = first.iov_base.wrapping_byte_add(step);
            first.iov_len -= step;
            bytes -= step;
            if first.iov_len == 0 {
                self.start += 1;
            }
        }
    }

    /// Leaves out all but the first `bytes`.
    pub fn limit(&mut self, bytes: usize) {
        let mut left = bytes.min(self.len);
        self.len = left;
        for piece in &mut self.list[self.start..] {
            piece.iov_len = piece.iov_len.min(left);
            left -= piece.iov_len;
        }
    }

    fn window(&self) -> (*const libc::iovec, i32) {
        let pieces = &self.list[self.start..];
        (pieces.as_ptr(), pieces.len().min(MAX_IOVECS) as i32)
    }

    /// One readv(2) into the memory; returns bytes.
    pub fn read(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let (list, count) = self.window();
        // SAFETY: each piece is mapped for as long as the memory that it is borrowed from; nobody has a reference into it.
        retry(|| unsafe { libc::readv(file.as_raw_fd(), list, count) })
    }

    /// One writev(2) from the memory; returns bytes.
    pub fn write(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let (list, count) = self.window();
        // SAFETY: as in `read`; the kernel only reads.
        retry(|| unsafe { libc::writev(file.as_raw_fd(), list, count) })
    }

    /// What preadv2(2) has in the page cache of `file` at `offset` bytes; returns bytes, perhaps fewer than there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when that takes reading from the disk; EOPNOTSUPP when the file system cannot tell.
    pub fn read_cached_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let (list, count) = self.window();
        let at = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: as in `read`.
        retry(|| unsafe { libc::preadv2(file.as_raw_fd(), list, count, at, libc::RWF_NOWAIT) })
    }

    /// Fills all of it from `file` at `offset` bytes.
    ///
    /// # Errors
    /// What preadv(2) says; `UnexpectedEof` when the file is shorter than that.
    pub fn read_all_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.all_at(offset, io::ErrorKind::UnexpectedEof, |list, count, offset| {
            // SAFETY: as in `read`.
            unsafe { libc::preadv(file.as_raw_fd(), list, count, offset) }
        })
    }

    /// Writes all of it to `file` at `offset` bytes.
    ///
    /// # Errors
    /// What pwritev(2) says; `WriteZero` when nothing more goes in.
    pub fn write_all_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.all_at(offset, io::ErrorKind::WriteZero, |list, count, offset| {
            // SAFETY: as in `write`.
            unsafe { libc::pwritev(file.as_raw_fd(), list, count, offset) }
        })
    }

    fn all_at(
        &mut self,
        mut offset: u64,
        at_end: io::ErrorKind,
        call: impl Fn(*const libc::iovec, i32, i64) -> isize,
    ) -> io::Result<()> {
        while !self.is_empty() {
            let (list, count) = self.window();
            let at = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            match retry(|| call(list, count, at))? {
                0 => return Err(at_end.into()),
                done => {
                    self.advance(done);
                    offset += done as u64;
                }
            }
        }
        Ok(())
    }
}

fn retry(call: impl Fn() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// What backs a range of guest RAM, and so how its pages go back to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory: MADV_DONTNEED frees the pages.
    Private,
    /// Shared memory (memfd): MADV_REMOVE punches a hole.
    Shared,
}

/// Gives the pages of `[start, start + len)` back to the host; the guest reads zeros there afterwards.
///
/// # Errors
/// What madvise(2) says; EFAULT when the range is not in guest memory.
pub fn free_pages(
    memory: &GuestMemoryMmap,
    start: GuestAddress,
    len: usize,
    backing: Backing,
) -> io::Result<()> {
    let advice = match backing {
        Backing::Private => libc::MADV_DONTNEED,
        Backing::Shared => libc::MADV_REMOVE,
    };
    for slice in memory.get_slices(start, len) {
        let slice = slice.map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
        let base = slice.ptr_guard_mut().as_ptr().cast();
        // SAFETY: the range is mapped guest memory, whose content is the guest's own to give away; nobody has a reference into it.
        if unsafe { libc::madvise(base, slice.len(), advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
