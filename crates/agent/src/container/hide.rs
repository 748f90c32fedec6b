//! Masked and read-only paths.

use super::mount::{
    attach, attr, attributes, clone_path, clone_tree, is_directory, make_readonly, new_file_system,
};
use super::root::Root;
use crate::error::{Doing, Result};
use crate::sys::{self, MountAttr};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

/// Hides a path: a directory behind an empty read-only one, anything else behind /dev/null. A missing path is skipped.
///
/// # Errors
/// When it exists and cannot be hidden.
pub fn mask(root: &Root, path: &str) -> Result<()> {
    let what = || format!("can't mask path {path:?}");
    let Some(at) = existing(root, path).doing(what)? else { return Ok(()) };
    if !is_directory(at.as_fd()).doing(what)? {
        // The machine's null device: that of the container could be anything.
        let null = clone_path("/dev/null").doing(what)?;
        return attach(null.as_fd(), at.as_fd()).doing(what);
    }
    let empty = new_file_system("tmpfs", "tmpfs", "size=0k,nr_inodes=1").doing(what)?;
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount_setattr(empty.as_fd(), false, &attributes(flags)).doing(what)?;
    attach(empty.as_fd(), at.as_fd()).doing(what)
}

/// Makes a path and everything mounted below it read-only. A missing path is skipped.
///
/// # Errors
/// When it exists and cannot be made read-only.
pub fn readonly(root: &Root, path: &str) -> Result<()> {
    let what = || format!("can't make {path:?} read-only");
    let Some(at) = existing(root, path).doing(what)? else { return Ok(()) };
    let tree = clone_tree(at.as_fd(), true).doing(what)?;
    let readonly = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    sys::mount_setattr(tree.as_fd(), true, &readonly).doing(what)?;
    attach(tree.as_fd(), at.as_fd()).doing(what)
}

/// Makes the root's own mount read-only, not what is mounted in it.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn readonly_root(root: &Root) -> Result<()> {
    make_readonly(root.as_fd()).doing(|| "can't make the root read-only".into())
}

fn existing(root: &Root, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match root.open(path) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}
