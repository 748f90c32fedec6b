//! Mounts inside a container's root, all by file descriptor.
//!
//! ```text
//!   a path of the machine ── agent: open_tree(CLONE), id map ──► detached mount ─┐
//!   a virtual file system ── child: fsopen, fsconfig, fsmount ─► detached mount ─┴─► attributes ─► move_mount to the destination
//! ```
//!
//! The agent makes the detached bind mounts before it clones the child: inside a user namespace neither the path nor the
//! file system may be accessible.

use super::root::Root;
use crate::error::{Doing, Result, cause, failed};
use crate::sys::{self, MountAttr};
use guest_protocol::message::{Mount, Source};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// MOUNT_ATTR_* of `include/uapi/linux/mount.h`.
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME_MASK: u64 = 0x70;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const IDMAP: u64 = 0x10_0000;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// MS_NOSYMFOLLOW, which libc lacks on some targets.
const MS_NOSYMFOLLOW: u64 = 0x100;
const MS_PROPAGATION: u64 = libc::MS_SHARED | libc::MS_SLAVE | libc::MS_PRIVATE | libc::MS_UNBINDABLE;

/// The attributes that the MS_* flags of mount(2) stand for. Flags that are not given leave a bind mount's attribute alone.
pub fn attributes(flags: u64) -> MountAttr {
    let simple = [
        (libc::MS_RDONLY, attr::RDONLY),
        (libc::MS_NOSUID, attr::NOSUID),
        (libc::MS_NODEV, attr::NODEV),
        (libc::MS_NOEXEC, attr::NOEXEC),
        (libc::MS_NODIRATIME, attr::NODIRATIME),
        (MS_NOSYMFOLLOW, attr::NOSYMFOLLOW),
    ];
    let mut result = MountAttr::default();
    for (_, attribute) in simple.iter().filter(|(flag, _)| flags & flag != 0) {
        result.set |= attribute;
    }
    let times = [
        (libc::MS_RELATIME, 0),
        (libc::MS_NOATIME, attr::NOATIME),
        (libc::MS_STRICTATIME, attr::STRICTATIME),
    ];
    for (_, attribute) in times.iter().filter(|(flag, _)| flags & flag != 0) {
        // They exclude each other: the field is cleared as a whole.
        result.set = result.set & !attr::ATIME_MASK | attribute;
        result.clear = attr::ATIME_MASK;
    }
    result
}

/// Clones the mount tree at an O_PATH descriptor.
///
/// # Errors
/// Those of open_tree(2).
pub fn clone_tree(path: BorrowedFd<'_>, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(path, "", flags)
}

/// Attaches a detached mount at an O_PATH descriptor.
///
/// # Errors
/// Those of move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, at: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", at, "", flags)
}

/// A new file system, not attached anywhere.
///
/// # Errors
/// When the kernel does not know the type or refuses an option; with the kernel's own words where it gives them.
pub fn new_file_system(fstype: &str, source: &str, data: &str) -> Result<OwnedFd> {
    let context =
        fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| format!("open file system {fstype}"))?;
    let explain = |e: Errno, doing: String| {
        let mut text = [0; 256];
        let said = rustix::io::read(&context, &mut text).unwrap_or(0);
        let said = String::from_utf8_lossy(&text[..said]);
        let said = said.trim_start_matches(['e', 'w', 'i', ' ']).trim();
        failed(format!("{doing}: {}{}{said}", cause(e), if said.is_empty() { "" } else { ": " }))
    };
    if !source.is_empty() {
        fsconfig_set_string(&context, "source", source)
            .map_err(|e| explain(e, format!("set source {source:?}")))?;
    }
    for option in data.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, option),
        }
        .map_err(|e| explain(e, format!("set option {option:?}")))?;
    }
    fsconfig_create(&context).map_err(|e| explain(e, format!("create file system {fstype}")))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .doing(|| format!("mount file system {fstype}"))
}

/// Performs one mount. `tree` is the agent's detached mount when the source is a path. Returns the mount if it still
/// has to be made read-only, once everything inside it was made ([`make_readonly`]).
///
/// # Errors
/// When the destination cannot be made or a call fails.
pub fn perform(root: &Root, mount: &Mount, tree: Option<&OwnedFd>) -> Result<Option<OwnedFd>> {
    let what = || format!("error mounting {} at {:?}", describe(mount), mount.destination);
    if mount.flags & libc::MS_REMOUNT != 0 {
        let at = root.open(&mount.destination).doing(what)?;
        return finish(&at, mount, mount.flags).doing(what).map(|()| None);
    }
    let made;
    let tree = match tree {
        Some(tree) => tree,
        None => {
            made = virtual_tree(mount).doing(what)?;
            &made
        }
    };
    let kept = kept_mode(root, mount);
    let at = destination(root, &mount.destination, is_directory(tree.as_fd()).doing(what)?).doing(what)?;
    // Opened now, for reading: once the new file system covers it, only this leads there.
    let below = mount.copy_up.then(|| root_of(&at)).transpose().doing(what)?;
    let late_readonly = mount.fstype == "tmpfs" && mount.flags & libc::MS_RDONLY != 0;
    let flags = if late_readonly { mount.flags & !libc::MS_RDONLY } else { mount.flags };
    finish(tree, mount, flags).doing(what)?;
    if let Some(mode) = kept {
        rustix::fs::fchmod(root_of(tree).doing(what)?, mode).doing(what)?;
    }
    attach(tree.as_fd(), at.as_fd()).doing(what)?;
    propagate(tree.as_fd(), &mount.propagation).doing(what)?;
    if let Some(below) = below {
        super::copy_up::copy(&below, &root_of(tree).doing(what)?).doing(what)?;
    }
    if late_readonly {
        return tree.try_clone().map(Some).doing(what);
    }
    Ok(None)
}

/// Makes a mount read-only.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn make_readonly(mount: BorrowedFd<'_>) -> rustix::io::Result<()> {
    sys::mount_setattr(mount, false, &MountAttr { set: attr::RDONLY, ..MountAttr::default() })
}

/// Changes the propagation of a mount, one MS_* flag (maybe with MS_REC) after the other.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn propagate(mount: BorrowedFd<'_>, changes: &[u64]) -> rustix::io::Result<()> {
    for change in changes {
        let propagation = change & MS_PROPAGATION;
        if propagation != 0 {
            let attr = MountAttr { propagation, ..MountAttr::default() };
            sys::mount_setattr(mount, change & libc::MS_REC != 0, &attr)?;
        }
    }
    Ok(())
}

fn describe(mount: &Mount) -> String {
    match &mount.source {
        Source::Virtual(_) => mount.fstype.clone(),
        Source::DiskNode { serial } => format!("the disk {serial:?}"),
        Source::Share { path, .. } | Source::Disk { path, .. } | Source::Machine(path) => format!("{path:?}"),
    }
}

fn finish(tree: &OwnedFd, mount: &Mount, flags: u64) -> rustix::io::Result<()> {
    let attributes = attributes(flags);
    if attributes != MountAttr::default() {
        sys::mount_setattr(tree.as_fd(), false, &attributes)?;
    }
    if let Some((set, clear)) = mount.recursive {
        sys::mount_setattr(tree.as_fd(), true, &MountAttr { set, clear, ..MountAttr::default() })?;
    }
    Ok(())
}

/// The mode that a tmpfs takes over from a directory which is there already, unless its options name one: as with runc.
fn kept_mode(root: &Root, mount: &Mount) -> Option<Mode> {
    if mount.fstype != "tmpfs" || mount.data.split(',').any(|option| option.starts_with("mode=")) {
        return None;
    }
    let stat = rustix::fs::fstat(root.open(&mount.destination).ok()?).ok()?;
    Some(Mode::from_raw_mode(stat.st_mode & 0o7777))
}

fn virtual_tree(mount: &Mount) -> Result<OwnedFd> {
    let source = match &mount.source {
        Source::Virtual(source) => source.as_str(),
        other => return Err(failed(format!("{other:?} was not prepared"))),
    };
    match mount.fstype.as_str() {
        // The guest has version 2 only. Options of version 1 name its hierarchies.
        "cgroup" => new_file_system("cgroup2", source, ""),
        "sysfs" => new_file_system("sysfs", source, &mount.data).or_else(|e| {
            // A user namespace that does not own the network may not have a sysfs of its own; the machine's shows the same.
            let path = Root::at("/sys")?;
            clone_tree(path.as_fd(), true).map_err(|_| e)
        }),
        fstype => new_file_system(fstype, source, &mount.data),
    }
}

fn destination(root: &Root, path: &str, directory: bool) -> rustix::io::Result<OwnedFd> {
    if directory { root.make_directory(path) } else { root.make_file(path) }
}

/// Whether a descriptor is one of a directory.
///
/// # Errors
/// Those of fstat(2).
pub fn is_directory(file: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Directory)
}

fn root_of(directory: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(directory, ".", flags, Mode::empty(), ResolveFlags::BENEATH)
}

/// A detached bind mount of one path of the machine.
///
/// # Errors
/// When it does not exist.
pub fn clone_path(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_attributes() {
        let given = libc::MS_BIND | libc::MS_REC | libc::MS_RDONLY | libc::MS_NODEV;
        assert_eq!(attributes(given), MountAttr { set: attr::RDONLY | attr::NODEV, ..MountAttr::default() });
        assert_eq!(attributes(libc::MS_BIND | libc::MS_SYNCHRONOUS), MountAttr::default());
    }

    #[test]
    fn the_times_exclude_each_other() {
        let noatime = attributes(libc::MS_NOATIME);
        assert_eq!((noatime.set, noatime.clear), (attr::NOATIME, attr::ATIME_MASK));
        let both = attributes(libc::MS_RELATIME | libc::MS_STRICTATIME);
        assert_eq!((both.set, both.clear), (attr::STRICTATIME, attr::ATIME_MASK));
        assert_eq!(attributes(libc::MS_RELATIME).clear, attr::ATIME_MASK);
    }
}
