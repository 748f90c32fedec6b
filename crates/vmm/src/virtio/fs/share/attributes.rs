//! Attributes: what the guest sees of an object, and what it may change.

use super::inodes::stat;
use super::{DONE, Reply, Share, ids};
use crate::virtio::fs::wire::{Body, Fields, ROOT, init};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Statx, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::os::fd::{AsFd, OwnedFd};

/// `FUSE_ATTR_SUBMOUNT`: another mount begins here.
const ATTR_SUBMOUNT: u32 = 1;

/// `FATTR_*`: which fields of a `fuse_setattr_in` count.
mod valid {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `UTIME_NOW` and `UTIME_OMIT` of utimensat(2).
const NOW: i64 = (1 << 30) - 1;
const OMIT: i64 = (1 << 30) - 2;

impl Share {
    /// `struct fuse_attr`.
    pub(super) fn attributes(&self, body: Body, stat: &Statx) -> Body {
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let submount =
            kind == FileType::Directory && self.inodes.is_submount(stat) && self.negotiated(init::SUBMOUNTS);
        let body = body.u64(stat.stx_ino).u64(stat.stx_size).u64(stat.stx_blocks);
        let times = [stat.stx_atime, stat.stx_mtime, stat.stx_ctime];
        let body = times.iter().fold(body, |body, time| body.u64(time.tv_sec as u64));
        let body = times.iter().fold(body, |body, time| body.u32(time.tv_nsec));
        let body = body.u32(stat.stx_mode.into()).u32(stat.stx_nlink);
        let body = body.u32(ids::to_guest(&self.options.ids.users, stat.stx_uid));
        let body = body.u32(ids::to_guest(&self.options.ids.groups, stat.stx_gid));
        // The kernel's 32-bit form of a device number (`new_encode_dev`).
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        let device = minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12;
        body.u32(device).u32(stat.stx_blksize).u32(if submount { ATTR_SUBMOUNT } else { 0 })
    }

    /// `struct fuse_attr_out`.
    fn attributes_out(&self, stat: &Statx) -> Reply {
        let body = Body::default().u64(self.timeout().as_secs()).zeros(8);
        Ok(self.attributes(body, stat).into())
    }

    /// `struct fuse_entry_out`: a node that the guest from now on knows.
    pub(super) fn entry(&self, body: Body, id: u64, stat: &Statx) -> Body {
        let seconds = self.timeout().as_secs();
        let body = body.u64(id).zeros(8).u64(seconds).u64(seconds).zeros(8);
        self.attributes(body, stat)
    }

    pub(super) fn getattr(&self, node: u64, mut fields: Fields<'_>) -> Reply {
        const BY_HANDLE: u32 = 1;
        let (flags, _, handle) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let stat = match self.handles.get(handle) {
            Ok(handle) if flags & BY_HANDLE != 0 => stat(&handle.fd)?,
            _ => stat(&self.inodes.open(node)?.0)?,
        };
        self.attributes_out(&stat)
    }

    pub(super) fn setattr(&self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (which, _, handle, size) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?);
        fields.skip(8)?;
        let (atime, mtime, _) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (atime_nsec, mtime_nsec, _) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (mode, _, uid, gid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let (fd, kind) = self.inodes.open(node)?;
        if which & (valid::UID | valid::GID) != 0 {
            let uid = if which & valid::UID != 0 { Some(self.host_user(uid)?) } else { None };
            let gid = if which & valid::GID != 0 { Some(self.host_group(gid)?) } else { None };
            rustix::fs::chownat(&fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if which & valid::MODE != 0 {
            self.chmod(&fd, mode)?;
        }
        if which & valid::SIZE != 0 {
            self.truncate(&fd, kind, (which & valid::FH != 0).then_some(handle), size)?;
            if which & valid::KILL_SUIDGID != 0 {
                self.drop_set_id_bits(&fd)?;
            }
        }
        if which & (valid::ATIME | valid::MTIME) != 0 {
            let time = |set, now, seconds: u64, nanoseconds: u32| match (which & set != 0, which & now != 0) {
                (false, _) => Timespec { tv_sec: 0, tv_nsec: OMIT },
                (true, true) => Timespec { tv_sec: 0, tv_nsec: NOW },
                (true, false) => {
                    Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds.min(999_999_999).into() }
                }
            };
            let last_access = time(valid::ATIME, valid::ATIME_NOW, atime, atime_nsec);
            let last_modification = time(valid::MTIME, valid::MTIME_NOW, mtime, mtime_nsec);
            let times = Timestamps { last_access, last_modification };
            rustix::fs::utimensat(&fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        self.attributes_out(&stat(&fd)?)
    }

    fn truncate(&self, fd: &OwnedFd, kind: FileType, handle: Option<u64>, size: u64) -> Result<(), Errno> {
        match handle.and_then(|handle| self.handles.get(handle).ok()).filter(|handle| handle.writable) {
            Some(handle) => rustix::fs::ftruncate(&handle.fd, size),
            None if kind == FileType::RegularFile => {
                rustix::fs::ftruncate(self.reopen(fd, OFlags::WRONLY)?, size)
            }
            None => Err(Errno::INVAL),
        }
    }

    /// Follows the link in /proc to the very object, which chmod(2) then changes.
    pub(super) fn chmod(&self, fd: impl AsFd, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::chmodat(&self.proc, DecInt::from_fd(fd.as_fd()), mode, AtFlags::empty())
    }

    /// Takes set-user-id, and set-group-id where it means that, from a file that was written to.
    pub(super) fn drop_set_id_bits(&self, fd: impl AsFd) -> Result<(), Errno> {
        let mode = u32::from(stat(fd.as_fd())?.stx_mode);
        let group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
        if mode & (0o4000 | group) != 0 {
            self.chmod(fd, mode & !(0o4000 | group))?;
        }
        Ok(())
    }

    pub(super) fn host_user(&self, id: u32) -> Result<Uid, Errno> {
        valid_id(ids::to_host(&self.options.ids.users, id)).map(Uid::from_raw)
    }

    pub(super) fn host_group(&self, id: u32) -> Result<Gid, Errno> {
        valid_id(ids::to_host(&self.options.ids.groups, id)).map(Gid::from_raw)
    }

    pub(super) fn statfs(&self, node: u64) -> Reply {
        // A guest may ask of a node that it has already forgotten; the root is always there.
        let (fd, _) = self.inodes.open(node).or_else(|_| self.inodes.open(ROOT))?;
        let all = rustix::fs::fstatvfs(&fd)?;
        let body = Body::default()
            .u64(all.f_blocks)
            .u64(all.f_bfree)
            .u64(all.f_bavail)
            .u64(all.f_files)
            .u64(all.f_ffree);
        Ok(body.u32(all.f_bsize as u32).u32(all.f_namemax as u32).u32(all.f_frsize as u32).zeros(28).into())
    }

    pub(super) fn syncfs(&self) -> Reply {
        // syncfs(2) does not take an O_PATH descriptor.
        let root = self.reopen(&*self.inodes.directory(ROOT)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::syncfs(root)?;
        DONE
    }
}

/// -1 means "leave it" to chown(2), and is no id.
fn valid_id(id: Option<u32>) -> Result<u32, Errno> {
    id.filter(|id| *id != u32::MAX).ok_or(Errno::INVAL)
}
