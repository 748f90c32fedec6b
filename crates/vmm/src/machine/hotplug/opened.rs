//! What a client of the control socket has opened, as a device: checks that it is what the client says.

use super::super::devices::OpenDevice;
use crate::control::protocol::{Access, Request};
use crate::memory::HUGE_PAGE;
use crate::memory::window::Sharing;
use crate::virtio::block::request::ID_BYTES;
use crate::virtio::fs::MAX_TAG;
use crate::virtio::net::tap;
use rustix::fs::{AtFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;

/// The device that `request` asks for, on `files`: one, or for a network one for each pair of queues.
///
/// # Errors
/// Why that cannot be, in words.
pub fn open(request: Request, files: Vec<OwnedFd>) -> Result<OpenDevice, String> {
    let mut files: Vec<_> = files.into_iter().map(File::from).collect();
    if let Request::AddNet(net) = request {
        if net.mac[0] & 1 == 1 {
            return Err("the hardware address is a group's, not an interface's".to_string());
        }
        tap::prepare(&files).map_err(|e| format!("{e}; what was opened is no such tap"))?;
        return Ok(OpenDevice::Net { taps: files, name: net.id, mac: net.mac, rx: net.rx, tx: net.tx });
    }
    let file = files.pop().ok_or("the opened file is missing")?;
    let meta = file.metadata().map_err(|e| format!("looking at the file: {e}"))?;
    match request {
        Request::AddDisk(disk) => {
            if disk.id.len() > ID_BYTES {
                return Err(format!("the id of a disk has at most {ID_BYTES} bytes: it is its serial"));
            }
            if !meta.is_file() && !meta.file_type().is_block_device() {
                return Err("what was opened is neither a file nor a block device".to_string());
            }
            Ok(OpenDevice::Block { file, serial: disk.id, readonly: disk.readonly, limits: disk.limits })
        }
        Request::AddPmem(pmem) => {
            let size = meta.len();
            if !meta.is_file() || size == 0 || !size.is_multiple_of(HUGE_PAGE) {
                return Err(format!(
                    "the image has {size} bytes; a pmem image is a file of a multiple of 2 MiB: `truncate -s %2M FILE` makes it one"
                ));
            }
            let sharing = match pmem.access {
                Access::Shared => Sharing::Shared,
                Access::Ro => Sharing::ReadOnly,
                Access::Cow => Sharing::CopyOnWrite,
            };
            Ok(OpenDevice::Pmem { file, name: pmem.id, size, sharing })
        }
        Request::AddShare(share) => {
            if !meta.is_dir() {
                return Err("what was opened is no directory".to_string());
            }
            if share.id.len() > MAX_TAG {
                return Err(format!("the id of a share has at most {MAX_TAG} bytes: it is its tag"));
            }
            if !share.dax.is_multiple_of(HUGE_PAGE) {
                return Err(format!("a DAX window of {} bytes; its size is a multiple of 2 MiB", share.dax));
            }
            Ok(OpenDevice::Share {
                root: file.into(),
                proc: None,
                tag: share.id,
                readonly: share.readonly,
                dax: share.dax,
            })
        }
        other => Err(format!("{} adds nothing", other.name())),
    }
}

/// Checks that a directory is the root of a mount out of which nothing leads, and in which nothing can be run: in its jail a machine cannot make
/// such a mount by itself.
///
/// # Errors
/// What it lacks, in words.
pub fn check_mount(root: &OwnedFd, readonly: bool) -> Result<(), String> {
    let failed = |e: Errno| format!("looking at the directory's mount: {e}");
    let place = |path: &CStr| {
        let stat = rustix::fs::statx(root, path, AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
        Ok((stat.stx_mnt_id, stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
    };
    if place(c"").map_err(failed)? != place(c"..").map_err(failed)? {
        return Err("the directory is no mount of its own, so that the way up is open from it, and this machine is in its jail; \
                    `clear-vmm ctl` makes one (open_tree, OPEN_TREE_CLONE) where it may: as root, or where users may make user namespaces"
            .to_string());
    }
    let has = rustix::fs::fstatvfs(root).map_err(failed)?.f_flag;
    let needed = StatVfsMountFlags::NOSUID
        | StatVfsMountFlags::NODEV
        | StatVfsMountFlags::NOEXEC
        | if readonly { StatVfsMountFlags::RDONLY } else { StatVfsMountFlags::empty() };
    if !has.contains(needed) {
        let only = if readonly { ", and rdonly" } else { "" };
        return Err(format!("the directory's mount must be nosuid, nodev, noexec{only} (mount_setattr)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{AddDisk, AddNet, AddPmem, AddShare};
    use crate::virtio::rate_limit::PerSecond;

    fn refused(request: Request, file: impl Into<OwnedFd>) -> String {
        open(request, vec![file.into()]).map(|_| ()).unwrap_err()
    }

    #[test]
    fn what_was_opened_is_what_was_said() {
        let file = || {
            let file = tempfile::tempfile().unwrap();
            file.set_len(HUGE_PAGE + 512).unwrap();
            file
        };
        let directory = || File::open("/").unwrap();
        let id = || "x".to_string();
        let disk = |id| Request::AddDisk(AddDisk { id, readonly: false, limits: PerSecond::default() });
        let pmem = Request::AddPmem(AddPmem { id: id(), access: Access::Ro });
        let share = |dax| Request::AddShare(AddShare { id: id(), readonly: true, dax });
        let net = |first| {
            Request::AddNet(AddNet {
                id: id(),
                mac: [first, 0, 0, 0, 0, 1],
                queues: 1,
                rx: PerSecond::default(),
                tx: PerSecond::default(),
            })
        };
        assert!(refused(disk(id()), directory()).contains("neither a file nor"));
        assert!(refused(disk("x".repeat(21)), file()).contains("at most 20 bytes"));
        assert!(refused(pmem, file()).contains("multiple of 2 MiB"));
        assert!(refused(share(0), file()).contains("no directory"));
        assert!(refused(share(4096), directory()).contains("multiple of 2 MiB"));
        assert!(refused(net(2), file()).contains("no such tap"));
        assert!(refused(net(1), file()).contains("a group's"));
        assert!(open(disk(id()), vec![file().into()]).is_ok());
        assert!(open(share(2 << 20), vec![directory().into()]).is_ok());
        assert!(open(disk(id()), Vec::new()).is_err());
    }
}
