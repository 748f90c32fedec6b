//! The keeper's own namespaces.

use super::HostError;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Gives this process a mount namespace of its own: it sees the host's mounts come and go, the host sees none of its.
///
/// # Errors
/// When the kernel refuses.
#[expect(unsafe_code, reason = "unshare is unsafe only for CLONE_FILES, which is not used")]
pub fn own_mounts() -> Result<(), HostError> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: a new mount namespace does not share or close file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(HostError::call("making a mount namespace"))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(HostError::call("separating the mount namespace"))
}

/// Whether a file is the network namespace of this process, which is the engine's and so the host's.
fn same_namespace(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (its, ours) = (file.metadata()?, std::fs::metadata("/proc/thread-self/ns/net")?);
    Ok((its.dev(), its.ino()) == (ours.dev(), ours.ino()))
}

/// Joins the network namespace `path`, or makes a new one.
///
/// # Errors
/// When the file is no network namespace, or the kernel refuses.
#[expect(unsafe_code, reason = "unshare is unsafe only for CLONE_FILES, which is not used")]
pub fn network(path: Option<&Path>) -> Result<(), HostError> {
    let Some(path) = path else {
        // SAFETY: a new network namespace does not share or close file descriptors.
        return unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .map_err(HostError::call("making a network namespace"));
    };
    let file = File::open(path).map_err(HostError::path("opening network namespace", path))?;
    if same_namespace(&file).map_err(HostError::path("looking at network namespace", path))? {
        return Err(HostError::HostNetwork(path.to_path_buf()));
    }
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| HostError::path("joining network namespace", path)(e.into()))
}
