//! Names: finding, making, moving and removing them.

use super::inodes::{open_name, stat};
use super::{DONE, Reply, Share};
use crate::virtio::fs::wire::{Body, Fields, InHeader, Opcode};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

impl Share {
    pub(super) fn lookup(&self, parent: u64, name: &CStr) -> Reply {
        match self.inodes.look_up(parent, name) {
            Ok((id, stat)) => Ok(self.entry(Body::default(), id, &stat).into()),
            // Node 0 with a time: nobody else can make it, so the guest may believe that for as long.
            Err(Errno::NOENT) if self.options.exclusive => {
                Ok(Body::default().zeros(16).u64(self.timeout().as_secs()).zeros(104).into())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn readlink(&self, node: u64) -> Reply {
        let (fd, kind) = self.inodes.open(node)?;
        if kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = rustix::fs::readlinkat(&fd, c"", Vec::with_capacity(256))?;
        Ok(super::Answer::Body(target.into_bytes()))
    }

    /// Everything that makes a name, except creating and opening a file in one.
    pub(super) fn make(&self, opcode: Opcode, header: &InHeader, mut fields: Fields<'_>) -> Reply {
        self.entered()?;
        let directory = self.inodes.directory(header.node)?;
        let name = match opcode {
            Opcode::Link => {
                let source = self.inodes.open(fields.u64()?)?.0;
                let name = fields.name()?;
                let link = DecInt::from_fd(source.as_fd());
                // Follows the link in /proc to the very object; a symbolic link itself is linked.
                rustix::fs::linkat(&self.proc, link, &*directory, name, AtFlags::SYMLINK_FOLLOW)?;
                return self.lookup(header.node, name);
            }
            Opcode::Symlink => {
                let (name, target) = (fields.name()?, fields.string()?);
                rustix::fs::symlinkat(target, &*directory, name)?;
                name
            }
            Opcode::Mkdir => {
                let (mode, umask, name) = (fields.u32()?, fields.u32()?, fields.name()?);
                let _ = rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
                rustix::fs::mkdirat(&*directory, name, Mode::from_raw_mode(mode & 0o7777))?;
                name
            }
            _ => {
                let (mode, device, umask, _, name) =
                    (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?, fields.name()?);
                let _ = rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
                // The kernel's 32-bit form of a device number (`new_decode_dev`).
                let device =
                    rustix::fs::makedev((device >> 8) & 0xfff, device & 0xff | (device >> 12) & 0xfff00);
                let (kind, mode) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode & 0o7777));
                rustix::fs::mknodat(&*directory, name, kind, mode, device)?;
                name
            }
        };
        let given = open_name(&*directory, name).and_then(|fd| self.give(&fd, &directory, header));
        if let Err(error) = given {
            let flags = if opcode == Opcode::Mkdir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&*directory, name, flags);
            return Err(error);
        }
        self.lookup(header.node, name)
    }

    /// Gives a new object to the user who asked for it; its group is the directory's where the directory says so.
    fn give(&self, fd: impl AsFd, directory: &OwnedFd, header: &InHeader) -> Result<(), Errno> {
        let (uid, gid) = (self.host_user(header.uid)?, self.host_group(header.gid)?);
        let new = stat(fd.as_fd())?;
        let inherits = stat(directory)?.stx_mode & 0o2000 != 0;
        let gid = if inherits || new.stx_gid == gid.as_raw() { None } else { Some(gid) };
        let uid = if new.stx_uid == uid.as_raw() { None } else { Some(uid) };
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        rustix::fs::chownat(fd.as_fd(), c"", uid, gid, AtFlags::EMPTY_PATH)?;
        // chown(2) has taken these away.
        if new.stx_mode & 0o6000 != 0 && FileType::from_raw_mode(new.stx_mode.into()) == FileType::RegularFile
        {
            self.chmod(fd, new.stx_mode.into())?;
        }
        Ok(())
    }

    /// Creates and opens a file, with a name or, with `Tmpfile`, without.
    pub(super) fn create(&self, opcode: Opcode, header: &InHeader, mut fields: Fields<'_>) -> Reply {
        self.entered()?;
        let (flags, mode, umask, extra) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let directory = self.inodes.directory(header.node)?;
        let flags = self.open_flags(flags)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let _ = rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
        if opcode == Opcode::Tmpfile {
            let directory_path = DecInt::from_fd(directory.as_fd());
            let all = (flags - OFlags::EXCL - OFlags::CREATE) | OFlags::TMPFILE | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.proc, directory_path, all, mode)?;
            self.give(&file, &directory, header)?;
            return self.created(file, flags, None);
        }
        let name = fields.name()?;
        let exclusive =
            (flags - OFlags::TRUNC) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&*directory, name, exclusive, mode, ResolveFlags::BENEATH) {
            Ok(file) => {
                if let Err(error) = self.give(&file, &directory, header) {
                    let _ = rustix::fs::unlinkat(&*directory, name, AtFlags::empty());
                    return Err(error);
                }
                self.created(file, flags, Some((header.node, name.to_owned())))
            }
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                let (id, stat) = self.inodes.look_up(header.node, name)?;
                match self.open_node(id, flags, extra) {
                    Ok(handle) => Ok(opened(self.entry(Body::default(), id, &stat), handle).into()),
                    Err(error) => {
                        self.inodes.forget(id, 1);
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    fn created(&self, file: OwnedFd, flags: OFlags, place: Option<(u64, std::ffi::CString)>) -> Reply {
        let path = DecInt::from_fd(file.as_fd());
        let pin = rustix::fs::openat(&self.proc, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let handle = self.handles.add(file, flags)?;
        match self.inodes.remember(pin, place) {
            Ok((id, stat)) => Ok(opened(self.entry(Body::default(), id, &stat), handle).into()),
            Err(error) => {
                self.handles.close(handle);
                Err(error)
            }
        }
    }

    pub(super) fn unlink(&self, parent: u64, name: &CStr, directory: bool) -> Reply {
        self.inodes.before_unlink(parent, name);
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&*self.inodes.directory(parent)?, name, flags)?;
        DONE
    }

    pub(super) fn rename(&self, old_parent: u64, mut fields: Fields<'_>, with_flags: bool) -> Reply {
        let new_parent = fields.u64()?;
        let flags = if with_flags { fields.u32()? } else { 0 };
        fields.skip(if with_flags { 4 } else { 0 })?;
        let (old, new) = (fields.name()?, fields.name()?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let (from, to) = (self.inodes.directory(old_parent)?, self.inodes.directory(new_parent)?);
        if !flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE) {
            self.inodes.before_unlink(new_parent, new);
        }
        rustix::fs::renameat_with(&*from, old, &*to, new, flags)?;
        self.inodes.after_rename(new_parent, new);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.inodes.after_rename(old_parent, old);
        }
        DONE
    }
}

/// `struct fuse_open_out` behind what is there.
pub(super) fn opened(body: Body, handle: u64) -> Body {
    body.u64(handle).zeros(8)
}
