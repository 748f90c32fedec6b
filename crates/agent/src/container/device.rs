//! Device nodes inside a container's root.

use super::mount::{attach, clone_path};
use super::root::Root;
use crate::error::{Doing, Result, failed};
use guest_protocol::message::{Device, DeviceKind, IfAbsent};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, major, makedev, minor};
use rustix::io::Errno;

/// Makes one device node with exactly its mode and owner. With `bind` (in a user namespace, where mknod(2) is refused) the
/// machine's own node is bound there instead.
///
/// # Errors
/// When it cannot be made, or the machine's kernel has no such device and that is no reason to leave it out.
pub fn make(root: &Root, device: &Device, bind: bool) -> Result<()> {
    let what = || format!("error creating device node {:?}", device.path);
    if device.if_absent != IfAbsent::Make && !exists(device) {
        return if device.if_absent == IfAbsent::LeaveOut { Ok(()) } else { absent(device).doing(what) };
    }
    if bind && device.kind != DeviceKind::Fifo {
        let node = machine_node(device).ok_or(Errno::NODEV).doing(what)?;
        let tree = clone_path(&node).doing(what)?;
        let at = root.make_file(&device.path).doing(what)?;
        return attach(tree.as_fd(), at.as_fd()).doing(what);
    }
    let (kind, number) = match device.kind {
        DeviceKind::Char => (FileType::CharacterDevice, makedev(device.major, device.minor)),
        DeviceKind::Block => (FileType::BlockDevice, makedev(device.major, device.minor)),
        DeviceKind::Fifo => (FileType::Fifo, 0),
    };
    let (directory, name) = root.parent(&device.path).doing(what)?;
    let name = name.as_str();
    let make = || rustix::fs::mknodat(&directory, name, kind, Mode::empty(), number);
    match make() {
        Err(Errno::EXIST) => {
            let there = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).doing(what)?;
            if FileType::from_raw_mode(there.st_mode) != kind || there.st_rdev != number {
                rustix::fs::unlinkat(&directory, name, AtFlags::empty()).doing(what)?;
                make().doing(what)?;
            }
        }
        result => result.doing(what)?,
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(&directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(what)?;
    // After chown, which takes set-id bits away; mknod's own mode is subject to the umask.
    rustix::fs::chmodat(&directory, name, Mode::from_raw_mode(device.mode), AtFlags::empty()).doing(what)
}

/// Whether the machine's kernel has this device. It says so of every device but the slaves of pseudo-terminals.
fn exists(device: &Device) -> bool {
    device.kind == DeviceKind::Fifo || std::fs::exists(in_sysfs(device)).unwrap_or(false)
}

fn absent(device: &Device) -> Result<()> {
    let Device { major, minor, .. } = device;
    let fix = "leave it out, or boot a mini-OS whose kernel has it";
    Err(failed(format!("the machine's kernel has no device {major}:{minor}; {fix}")))
}

fn in_sysfs(device: &Device) -> String {
    let class = if device.kind == DeviceKind::Block { "block" } else { "char" };
    format!("/sys/dev/{class}/{}:{}", device.major, device.minor)
}

/// Where the machine has this device, from sysfs' word on its name in devtmpfs.
fn machine_node(device: &Device) -> Option<String> {
    let text = std::fs::read_to_string(format!("{}/uevent", in_sysfs(device))).ok()?;
    let node = format!("/dev/{}", text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?);
    let stat = rustix::fs::stat(&node).ok()?;
    (major(stat.st_rdev) == device.major && minor(stat.st_rdev) == device.minor).then_some(node)
}

/// Makes a symbolic link; whatever exists there is kept.
///
/// # Errors
/// When it cannot be made.
pub fn symlink(root: &Root, target: &str, path: &str) -> Result<()> {
    let what = || format!("error creating symbolic link {path:?}");
    let (directory, name) = root.parent(path).doing(what)?;
    match rustix::fs::symlinkat(target, &directory, name.as_str()) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e).doing(what),
    }
}
