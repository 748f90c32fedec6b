//! Shared directories and disks of the machine, and what a [`Source`] means in it.
//!
//! ```text
//!   Share{tag}    ─► 9p or virtio-fs ─► /run/clear/share/<tag> ─┐
//!   Disk{serial}  ─► /sys/block/*/serial ─► /run/clear/disk/<serial> ─┴─► Source ─► O_PATH descriptor
//! ```

use super::boot::RUN;
use super::channel::wait_for_device;
use crate::error::{Doing, Result, invalid};
use guest_protocol::message::{Disk, Share, ShareTransport, Source};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Largest 9p message, in bytes. More than this gives nothing more and needs larger pieces of contiguous memory;
/// 500 KiB would be the most that the transport carries.
const MSIZE: u32 = 256 << 10;

/// See [`has_disks`].
static DISKS: AtomicBool = AtomicBool::new(false);

/// Whether there is a disk that somebody may have mounted.
pub fn has_disks() -> bool {
    DISKS.load(Ordering::Relaxed)
}

/// From now on [`has_disks`].
pub fn note_disks() {
    DISKS.store(true, Ordering::Relaxed);
}

/// Mounts a shared directory. One that is mounted already is left alone.
///
/// # Errors
/// When the device does not exist or the file system is unknown to the kernel.
pub fn mount_share(share: &Share) -> Result<()> {
    let target = format!("{RUN}/share/{}", plain_name(&share.tag)?);
    let what = || format!("mount the share {:?}", share.tag);
    if !make_mount_point(&target)? {
        return Ok(());
    }
    // Each user of the container is one to the server: files belong to who makes them, as on a local file system.
    // `cache=mmap`: the host may change files at any time, only mapped pages are kept.
    let nine_p = format!("trans=virtio,version=9p2000.L,cache=mmap,access=user,msize={MSIZE}");
    let (fstype, data) = match share.transport {
        ShareTransport::NineP => ("9p", nine_p),
        ShareTransport::Virtiofs => ("virtiofs", String::new()),
    };
    let data = CString::new(data).unwrap_or_default();
    let flags = MountFlags::empty();
    rustix::mount::mount(share.tag.as_str(), &target, fstype, flags, data.as_c_str()).doing(what)
}

/// Mounts a disk's file system. One that is mounted already is left alone.
///
/// # Errors
/// When the disk does not appear in time or cannot be mounted.
pub fn mount_disk(disk: &Disk) -> Result<()> {
    let target = format!("{RUN}/disk/{}", plain_name(&disk.serial)?);
    if !make_mount_point(&target)? {
        return Ok(());
    }
    let device = disk_node(&disk.serial)?;
    let data = CString::new(disk.data.as_str()).map_err(|_| invalid("disk options with a null byte"))?;
    let flags = if disk.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    note_disks();
    rustix::mount::mount(&device, &target, disk.fstype.as_str(), flags, data.as_c_str())
        .doing(|| format!("mount the disk {:?} ({}) as {}", disk.serial, device.display(), disk.fstype))
}

/// Makes the directory; false when something is mounted on it.
fn make_mount_point(target: &str) -> Result<bool> {
    match rustix::fs::mkdir(target, Mode::from_raw_mode(0o755)) {
        Ok(()) => return Ok(true),
        Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e).doing(|| format!("make directory {target}")),
    }
    let device = |path: &str| rustix::fs::stat(path).map(|s| s.st_dev).doing(|| format!("look at {path}"));
    Ok(device(target)? == device(RUN)?)
}

/// The node of the disk with this serial.
///
/// # Errors
/// When it does not appear in time.
pub fn disk_node(serial: &str) -> Result<PathBuf> {
    wait_for_device(&format!("the disk {serial:?}"), || find_disk(serial))
}

/// A disk by the serial that the VMM gave it; pmem devices have none and go by their name.
fn find_disk(serial: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir("/sys/block").ok()?.flatten() {
        let found = std::fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim_end() == serial || entry.file_name() == *serial {
            let device = PathBuf::from("/dev").join(entry.file_name());
            return device.exists().then_some(device);
        }
    }
    None
}

fn plain_name(name: &str) -> Result<&str> {
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || name.contains('/') {
        return Err(invalid(format!("{name:?} cannot name a share or a disk")));
    }
    Ok(name)
}

/// Opens what `source` names, as an O_PATH descriptor. A path cannot lead out of its share or disk.
///
/// # Errors
/// When it does not exist, or is [`Source::Virtual`].
pub fn open_source(source: &Source) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let (base, path) = match source {
        Source::Share { tag, path } => (format!("{RUN}/share/{}", plain_name(tag)?), path),
        Source::Disk { serial, path } => (format!("{RUN}/disk/{}", plain_name(serial)?), path),
        Source::DiskNode { serial } => {
            let node = disk_node(serial)?;
            return rustix::fs::open(&node, flags, Mode::empty())
                .doing(|| format!("open {}", node.display()));
        }
        Source::Machine(path) => {
            return rustix::fs::open(path.as_str(), flags, Mode::empty()).doing(|| format!("open {path}"));
        }
        Source::Virtual(name) => return Err(invalid(format!("{name:?} is no path to bind"))),
    };
    let what = || format!("open {path:?} of {base}");
    let directory = rustix::fs::open(&base, flags | OFlags::DIRECTORY, Mode::empty()).doing(what)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(&directory, path.as_str(), flags, Mode::empty(), resolve).doing(what)
}
