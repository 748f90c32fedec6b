//! Extended attributes, and the ACLs that are kept in them.

use super::inodes::stat;
use super::{Answer, DONE, Reply, Share};
use crate::virtio::fs::wire::{Body, Fields, Opcode, init};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::path::DecInt;
use std::ffi::CStr;
use std::os::fd::AsFd;

/// Largest value and largest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`), in bytes.
const MAX_SIZE: u32 = 64 << 10;

/// `FUSE_SETXATTR_ACL_KILL_SGID`: setting this ACL takes set-group-id away.
const ACL_KILL_SGID: u32 = 1;

/// Names of ACLs, which contain user and group ids.
const ACL_PREFIX: &[u8] = b"system.posix_acl_";

impl Share {
    /// With a translation of ids, an ACL would say something else than the guest means.
    fn allowed(&self, name: &CStr) -> Result<(), Errno> {
        let acl = name.to_bytes().starts_with(ACL_PREFIX);
        if acl && !self.options.ids.is_identity() { Err(Errno::OPNOTSUPP) } else { Ok(()) }
    }

    pub(super) fn read_xattr(&self, opcode: Opcode, node: u64, mut fields: Fields<'_>) -> Reply {
        self.entered()?;
        let size = fields.u32()?;
        fields.skip(4)?;
        let (fd, _) = self.inodes.open(node)?;
        // Relative to the thread's working directory, /proc/self/fd; it leads to the very object, be it a symbolic link.
        let path = DecInt::from_fd(fd.as_fd());
        let name = if opcode == Opcode::Getxattr { Some(fields.string()?) } else { None };
        if let Some(name) = name {
            self.allowed(name)?;
        }
        if size == 0 {
            // The guest asks how much there is.
            let length = match name {
                Some(name) => rustix::fs::getxattr_query(path, name)?,
                None => rustix::fs::listxattr_query(path)?,
            };
            return Ok(Body::default().u32(length as u32).zeros(4).into());
        }
        let mut value = vec![0; size.min(MAX_SIZE) as usize];
        let length = match name {
            Some(name) => rustix::fs::getxattr(path, name, &mut value[..])?,
            None => rustix::fs::listxattr(path, &mut value[..])?,
        };
        value.truncate(length);
        Ok(Answer::Body(value))
    }

    pub(super) fn write_xattr(&self, opcode: Opcode, node: u64, mut fields: Fields<'_>) -> Reply {
        self.entered()?;
        let (fd, _) = self.inodes.open(node)?;
        let path = DecInt::from_fd(fd.as_fd());
        if opcode == Opcode::Removexattr {
            let name = fields.string()?;
            self.allowed(name)?;
            rustix::fs::removexattr(path, name)?;
            return DONE;
        }
        let (size, flags) = (fields.u32()?, fields.u32()?);
        let more = if self.negotiated(init::SETXATTR_EXT) { (fields.u32()?, fields.u32()?).0 } else { 0 };
        let name = fields.string()?;
        self.allowed(name)?;
        let value = fields.0.get(..size as usize).ok_or(Errno::INVAL)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(path, name, value, flags)?;
        if more & ACL_KILL_SGID != 0 {
            let mode = u32::from(stat(&fd)?.stx_mode);
            self.chmod(&fd, mode & !0o2000)?;
        }
        DONE
    }
}
