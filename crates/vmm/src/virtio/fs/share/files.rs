//! Open files: their bytes, and mapping them into the window.

use super::names::opened;
use super::{Answer, DONE, Reply, Share};
use crate::virtio::fs::server::Request;
use crate::virtio::fs::wire::{Body, Fields, WRITE_IN};
use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// `FOPEN_KEEP_CACHE`: what the guest has of the file is still good.
const KEEP_CACHE: u32 = 1 << 1;

/// `FUSE_OPEN_KILL_SUIDGID`: truncating takes set-user-id away.
const OPEN_KILL_SUIDGID: u32 = 1;

/// `FUSE_WRITE_KILL_SUIDGID`.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// `FUSE_SETUPMAPPING_FLAG_WRITE`.
const MAP_WRITE: u64 = 1;

/// No open file: the node is meant.
const NO_HANDLE: u64 = u64::MAX;

/// Most ranges in one request to unmap: what fits into a page.
const MAX_RANGES: u32 = 256;

impl Share {
    /// What the host's open(2) gets of the guest's flags.
    pub(super) fn open_flags(&self, flags: u32) -> Result<OFlags, Errno> {
        let asked = OFlags::from_bits_retain(flags);
        // Caching, access times and signals are matters of the guest's kernel; O_DIRECT needs an alignment that the guest does not know.
        let kept = OFlags::WRONLY
            | OFlags::RDWR
            | OFlags::TRUNC
            | OFlags::EXCL
            | OFlags::APPEND
            | OFlags::DSYNC
            | OFlags::SYNC;
        let flags = asked & kept;
        if flags.contains(OFlags::WRONLY | OFlags::RDWR) {
            return Err(Errno::INVAL);
        }
        if self.options.readonly && flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            return Err(Errno::ROFS);
        }
        Ok(flags)
    }

    /// Opens a regular file, and nothing else: opening a device, a FIFO or a socket of the host would act on the host.
    fn open_file(&self, node: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (fd, kind) = self.inodes.open(node)?;
        match kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        let flags = (flags - OFlags::EXCL) | OFlags::NONBLOCK;
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return self.reopen(&*fd, flags);
        }
        // Reading leaves no trace where we may ask for that: only with FOWNER or as the owner.
        match self.reopen(&*fd, flags | OFlags::NOATIME) {
            Err(Errno::PERM) => self.reopen(&*fd, flags),
            other => other,
        }
    }

    pub(super) fn open_node(&self, node: u64, flags: OFlags, extra: u32) -> Result<u64, Errno> {
        let file = self.open_file(node, flags)?;
        if flags.contains(OFlags::TRUNC) && extra & OPEN_KILL_SUIDGID != 0 {
            self.drop_set_id_bits(&*self.inodes.open(node)?.0)?;
        }
        self.handles.add(file, flags)
    }

    pub(super) fn open(&self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (flags, extra) = (self.open_flags(fields.u32()?)?, fields.u32()?);
        let handle = self.open_node(node, flags, extra)?;
        let keep = if self.options.exclusive { KEEP_CACHE } else { 0 };
        Ok(Body::default().u64(handle).u32(keep).zeros(4).into())
    }

    pub(super) fn read(&self, mut fields: Fields<'_>, request: &Request<'_>) -> Reply {
        let (handle, offset, size) = (self.handles.get(fields.u64()?)?, fields.u64()?, fields.u32()?);
        let length = request.read_file(handle.fd.as_fd(), offset, size)?;
        Ok(Answer::InPlace(length))
    }

    pub(super) fn write(&self, mut fields: Fields<'_>, request: &Request<'_>) -> Reply {
        let (handle, offset) = (self.handles.get(fields.u64()?)?, fields.u64()?);
        let (size, flags) = (fields.u32()?, fields.u32()?);
        let length = request.write_file(handle.fd.as_fd(), offset, WRITE_IN, size)?;
        if flags & WRITE_KILL_SUIDGID != 0 {
            self.drop_set_id_bits(&handle.fd)?;
        }
        Ok(Body::default().u32(length as u32).zeros(4).into())
    }

    pub(super) fn fsync(&self, mut fields: Fields<'_>) -> Reply {
        const DATA_ONLY: u32 = 1;
        let (handle, flags) = (self.handles.get(fields.u64()?)?, fields.u32()?);
        match flags & DATA_ONLY {
            0 => rustix::fs::fsync(&handle.fd)?,
            _ => rustix::fs::fdatasync(&handle.fd)?,
        }
        DONE
    }

    pub(super) fn fallocate(&self, mut fields: Fields<'_>) -> Reply {
        let (handle, offset, length) = (self.handles.get(fields.u64()?)?, fields.u64()?, fields.u64()?);
        let mode = FallocateFlags::from_bits_retain(fields.u32()?);
        rustix::fs::fallocate(&handle.fd, mode, offset, length)?;
        DONE
    }

    pub(super) fn lseek(&self, mut fields: Fields<'_>) -> Reply {
        let (handle, offset) = (self.handles.get(fields.u64()?)?, fields.u64()?);
        // The others are the guest's own business.
        let from = match fields.u32()? as i32 {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        Ok(Body::default().u64(rustix::fs::seek(&handle.fd, from)?).into())
    }

    pub(super) fn copy_file_range(&self, mut fields: Fields<'_>) -> Reply {
        let (from, mut from_offset, _) = (self.handles.get(fields.u64()?)?, fields.u64()?, fields.u64()?);
        let (to, mut to_offset, length) = (self.handles.get(fields.u64()?)?, fields.u64()?, fields.u64()?);
        // A copy of a whole disk would keep a thread for long; the guest asks again for the rest.
        let length = length.min(1 << 30) as usize;
        let (input, output) = (Some(&mut from_offset), Some(&mut to_offset));
        let copied = rustix::fs::copy_file_range(&from.fd, input, &to.fd, output, length)?;
        Ok(Body::default().u32(copied as u32).zeros(4).into())
    }

    pub(super) fn setup_mapping(&self, node: u64, mut fields: Fields<'_>) -> Reply {
        let window = self.window().ok_or(Errno::NOSYS)?;
        let (handle, file_offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (flags, offset) = (fields.u64()?, fields.u64()?);
        let writable = flags & MAP_WRITE != 0;
        if writable && self.options.readonly {
            return Err(Errno::ROFS);
        }
        if handle == NO_HANDLE {
            let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
            let file = self.open_file(node, access)?;
            window.map(file.as_fd(), file_offset, offset, length, writable)?;
        } else {
            let handle = self.handles.get(handle)?;
            window.map(handle.fd.as_fd(), file_offset, offset, length, writable)?;
        }
        DONE
    }

    pub(super) fn remove_mapping(&self, mut fields: Fields<'_>) -> Reply {
        let window = self.window().ok_or(Errno::NOSYS)?;
        let count = fields.u32()?;
        if count > MAX_RANGES {
            return Err(Errno::INVAL);
        }
        for _ in 0..count {
            window.unmap(fields.u64()?, fields.u64()?)?;
        }
        DONE
    }

    pub(super) fn opendir(&self, node: u64) -> Reply {
        let fd = self.inodes.directory(node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = match self.reopen(&*fd, flags | OFlags::NOATIME) {
            Err(Errno::PERM) => self.reopen(&*fd, flags)?,
            other => other?,
        };
        Ok(opened(Body::default(), self.handles.add(directory, flags)?).into())
    }
}
