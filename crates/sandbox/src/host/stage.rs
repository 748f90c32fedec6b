//! The stage: the directory tree that the guest sees as its share, made of bind mounts on a private tmpfs.
//!
//! Only what is staged exists for the guest. A read-only entry is read-only on this side, whatever the guest does.

use super::HostError;
use crate::plan::HostStep;
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Mounts the empty stage. The mount namespace must be the keeper's own.
///
/// # Errors
/// When the directory cannot be made or mounted.
pub fn open(stage: &Path) -> Result<(), HostError> {
    fs::create_dir_all(stage).map_err(HostError::path("creating", stage))?;
    mount(
        "clear-stage",
        stage,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(c"mode=755,size=1m"),
    )
    .map_err(|e| HostError::path("mounting a tmpfs on", stage)(e.into()))
}

/// Binds what a [`HostStep::Stage`] names to its place below the stage; other steps are left alone.
///
/// # Errors
/// When the source is missing or of another kind than planned, or cannot be mounted.
pub fn add(stage: &Path, step: &HostStep) -> Result<(), HostError> {
    let HostStep::Stage { name, source, directory, readonly, readonly_below, recursive } = step else {
        return Ok(());
    };
    let target = stage.join(name);
    if *directory { fs::create_dir(&target) } else { File::create_new(&target).map(drop) }
        .map_err(HostError::path("creating", &target))?;
    let bound = if *recursive { mount_bind_recursive(source, &target) } else { mount_bind(source, &target) };
    bound.map_err(|e| HostError::path("sharing", source)(e.into()))?;
    let failed = HostError::path("making read-only", source);
    match (readonly, readonly_below) {
        (_, true) => all_readonly(&target).map_err(failed),
        (true, false) => {
            mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, "").map_err(|e| failed(e.into()))
        }
        (false, false) => Ok(()),
    }
}

/// Makes the mount at `target` and all below it read-only (mount_setattr(2), Linux 5.12).
#[expect(unsafe_code, reason = "mount_setattr is not in rustix")]
fn all_readonly(target: &Path) -> std::io::Result<()> {
    let path = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_RDONLY;
    // SAFETY: the path is terminated, and the structure lives and has the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
