//! Listing directories, with or without the attributes of what is in them.

use super::{Reply, Share};
use crate::virtio::fs::wire::{Body, Fields};
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::PoisonError;

/// Most bytes of one answer.
const MAX_LISTING: usize = 128 << 10;

/// Bytes of `struct fuse_dirent` before the name, and of `struct fuse_entry_out`.
const ENTRY_HEAD: usize = 24;
const ATTRIBUTES: usize = 128;

impl Share {
    /// Entries from an offset on, as many as there is room for. With `parent` each entry is looked up in it too.
    pub(super) fn readdir(&self, mut fields: Fields<'_>, room: usize, parent: Option<u64>) -> Reply {
        let (handle, offset, size) = (self.handles.get(fields.u64()?)?, fields.u64()?, fields.u32()?);
        let room = room.min(size as usize).min(MAX_LISTING);
        let mut body = Body::default();
        let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
        let _position = handle.position.lock().unwrap_or_else(PoisonError::into_inner);
        handle.seek(offset)?;
        let mut entries = RawDir::new(&handle.fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(_) if !body.0.is_empty() => break,
                Err(error) => return Err(error),
            };
            let name = entry.file_name();
            let length = ENTRY_HEAD + name.count_bytes();
            let length = length.next_multiple_of(8) + if parent.is_some() { ATTRIBUTES } else { 0 };
            if body.0.len() + length > room {
                if body.0.is_empty() {
                    return Err(Errno::INVAL);
                }
                break;
            }
            if let Some(parent) = parent {
                body = self.listed(body, parent, name);
            }
            body = body.u64(entry.ino()).u64(entry.next_entry_cookie());
            body = body.u32(name.count_bytes() as u32).u32(kind_bits(entry.file_type()));
            body.0.extend(name.to_bytes());
            let end = body.0.len().next_multiple_of(8);
            body.0.resize(end, 0);
        }
        Ok(body.into())
    }

    /// `struct fuse_entry_out` of an entry; zeros when it is `.` or `..`, or has gone meanwhile: the guest then looks it up itself.
    fn listed(&self, body: Body, parent: u64, name: &CStr) -> Body {
        let found = match name.to_bytes() {
            b"." | b".." => None,
            _ => self.inodes.look_up(parent, name).ok(),
        };
        match found {
            Some((id, stat)) => self.entry(body, id, &stat),
            None => body.zeros(ATTRIBUTES),
        }
    }
}

/// `DT_*` of readdir(3): the type bits of a mode, shifted.
fn kind_bits(kind: FileType) -> u32 {
    kind.as_raw_mode() >> 12
}
