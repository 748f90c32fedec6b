//! The stage: the directory tree that the guest sees as its share, made of bind mounts on a private tmpfs.
//!
//! Only what is staged exists for the guest. A read-only entry is read-only on this side, whatever the guest does.

use super::HostError;
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount};
use std::fs::{self, File};
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

/// Binds `source` to `name` below the stage.
///
/// # Errors
/// When the source is missing or of another kind than planned, or cannot be mounted.
pub fn add(
    stage: &Path,
    name: &str,
    source: &Path,
    directory: bool,
    readonly: bool,
    recursive: bool,
) -> Result<(), HostError> {
    let target = stage.join(name);
    if directory { fs::create_dir(&target) } else { File::create_new(&target).map(drop) }
        .map_err(HostError::path("creating", &target))?;
    let bound = if recursive { mount_bind_recursive(source, &target) } else { mount_bind(source, &target) };
    bound.map_err(|e| HostError::path("sharing", source)(e.into()))?;
    if readonly {
        mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, "")
            .map_err(|e| HostError::path("making read-only", source)(e.into()))?;
    }
    Ok(())
}
