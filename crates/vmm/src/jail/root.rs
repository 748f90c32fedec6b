//! The empty root.
//!
//! ```text
//!   /            tmpfs, read-only, nothing in it but
//!   /0, /1, ...  a shared directory each, a mount of its own: nosuid, nodev, noexec, and read-only where the share is
//!   (nowhere)    /proc/self/fd, and the directories of vsock's sockets and of the control socket: mounts too, reached by descriptor only
//! ```
//!
//! A descriptor of a directory is a way to all of its file system, by `..`. At the root of a mount `..` ends, so the directories that
//! were opened are replaced by mounts. Shares stay in the tree so that what is mounted below them on the host later arrives in them.
#![expect(unsafe_code, reason = "mount_setattr is not in rustix")]

use super::{JailError, doing};
use crate::machine::devices::OpenDevice;
use rustix::fs::{AtFlags, CWD, Mode, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Nothing in the jail is run, and no device opened.
const QUIET: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Moves this process into an empty root. Its mount namespace must be its own already. `names` are the directories of sockets' names.
/// With `descriptors`, `/proc/self/fd` is kept for shares that come later, and returned.
///
/// # Errors
/// The step that failed.
pub fn enter(
    devices: &mut [OpenDevice],
    names: &mut [&mut OwnedFd],
    descriptors: bool,
) -> Result<Option<OwnedFd>, JailError> {
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", propagation).map_err(doing("keeping mounts to ourselves"))?;
    let shares = replace(devices)?;
    let descriptors = descriptors.then(own_descriptors).transpose()?;
    for directory in names {
        **directory = own_mount(directory, OpenTreeFlags::empty(), QUIET)?;
    }
    let root = empty()?;
    let moved = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", CWD, "/", moved).map_err(doing("mounting an empty root"))?;
    for (index, share) in shares.iter().enumerate() {
        let name = index.to_string();
        rustix::fs::mkdirat(&root, &name, Mode::RWXU).map_err(doing("making a place for a share"))?;
        rustix::mount::move_mount(share, "", &root, &name, moved).map_err(doing("mounting a share"))?;
    }
    rustix::process::fchdir(&root).map_err(doing("entering the empty root"))?;
    // The old root comes to lie on the new one, and goes.
    rustix::process::pivot_root(".", ".").map_err(doing("changing the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(doing("leaving the old root"))?;
    set_attributes(&root, 0, libc::MOUNT_ATTR_RDONLY).map_err(doing("making the root read-only"))?;
    rustix::process::chdir("/").map_err(doing("entering the new root"))?;
    Ok(descriptors)
}

/// A mount of its own for a directory, of no namespace, so that no `..` leads out of it: for a client that gives it to a machine in its jail.
///
/// # Errors
/// When this process may not make mounts, or the directory was moved meanwhile.
pub fn detached(directory: &OwnedFd, readonly: bool) -> Result<OwnedFd, JailError> {
    let only = if readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
    own_mount(directory, OpenTreeFlags::AT_RECURSIVE, QUIET | only)
}

/// A file system without anything in it.
fn empty() -> Result<OwnedFd, JailError> {
    let failed = "making an empty root";
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(doing(failed))?;
    rustix::mount::fsconfig_create(&context).map_err(doing(failed))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(doing(failed))
}

/// Puts mounts in the place of directories; returns those of the shares.
fn replace(devices: &mut [OpenDevice]) -> Result<Vec<OwnedFd>, JailError> {
    let again = doing::<std::io::Error>;
    let (mut shares, mut descriptors) = (Vec::new(), None);
    for device in devices {
        match device {
            OpenDevice::Share { root, proc, readonly, .. } => {
                let only = if *readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
                *root = own_mount(root, OpenTreeFlags::AT_RECURSIVE, QUIET | only)?;
                shares.push(root.try_clone().map_err(again("sharing a directory"))?);
                let all = match descriptors.take() {
                    Some(descriptors) => descriptors,
                    None => own_descriptors()?,
                };
                *proc = Some(all.try_clone().map_err(again("sharing a directory"))?);
                descriptors = Some(all);
            }
            OpenDevice::Vsock { host, .. } => {
                if let Some(sockets) = &mut host.sockets {
                    let flags = OpenTreeFlags::empty();
                    sockets.directory =
                        own_mount(&sockets.directory, flags, QUIET | libc::MOUNT_ATTR_RDONLY)?;
                }
            }
            _ => {}
        }
    }
    Ok(shares)
}

/// `/proc/self/fd` and nothing else of /proc.
fn own_descriptors() -> Result<OwnedFd, JailError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, "/proc/self/fd", flags).map_err(doing("keeping /proc/self/fd"))
}

/// The open directory once more, as the root of a mount. Its own mount belongs to the namespace that was left, so it is found
/// again by its path.
fn own_mount(directory: &OwnedFd, flags: OpenTreeFlags, attributes: u64) -> Result<OwnedFd, JailError> {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = rustix::fs::readlink(&link, Vec::new()).map_err(doing("looking up a directory's path"))?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let all = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = match rustix::mount::open_tree(CWD, &path, all) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(JailError::Moved(path)),
        other => other.map_err(doing("making a mount of a directory"))?,
    };
    if !same(&tree, directory).map_err(doing("looking at a directory"))? {
        return Err(JailError::Moved(path));
    }
    let recursive = flags.contains(OpenTreeFlags::AT_RECURSIVE);
    set_attributes(&tree, if recursive { libc::AT_RECURSIVE } else { 0 }, attributes)
        .map_err(doing("restricting a directory"))?;
    Ok(tree)
}

/// Whether both are the same directory, whatever mount they are reached by.
fn same(one: impl AsFd, other: impl AsFd) -> Result<bool, Errno> {
    let key = |fd| {
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
        Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
    };
    Ok(key(one.as_fd())? == key(other.as_fd())?)
}

/// mount_setattr(2), Linux 5.12: adds attributes to a mount.
fn set_attributes(mount: &OwnedFd, flags: libc::c_int, attributes: u64) -> Result<(), std::io::Error> {
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is terminated, and the structure lives and has the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
