//! Bind mounts of host paths, by what the path is.

use super::devices::machine_path;
use super::host_disks::disk;
use super::{HostStep, Inputs, Piece, PlanError, SHARE_TAG};
use crate::bundle::SourceKind;
use guest_protocol::message::{Mount, Source};
use libc::{MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC};
use std::path::{Path, PathBuf};

/// `MOUNT_ATTR_RDONLY` of `include/uapi/linux/mount.h`.
const MOUNT_ATTR_RDONLY: u64 = 1;

/// Plans the bind mount of `source`; `mount` holds destination, flags and the rest already.
pub(super) fn bind(
    inputs: &Inputs,
    path: &str,
    index: usize,
    source: PathBuf,
    mut mount: Mount,
    piece: &mut Piece,
) -> Result<Mount, PlanError> {
    mount.flags |= MS_BIND;
    if !mount.data.is_empty() {
        piece
            .warnings
            .push(format!("{path}.options: {:?} means nothing for a bind mount; left out", mount.data));
        mount.data.clear();
    }
    let kind = inputs.bundle.sources.get(&source).copied().unwrap_or(SourceKind::Missing);
    if kind == SourceKind::Missing {
        // runc's words; engines pass them on to their users.
        let problem =
            format!("mount source {source:?} does not exist: no such file or directory; create it first");
        return Err(PlanError::invalid(format!("{path}.source"), problem));
    }
    if let Some(mount) = machines_own(path, &source, &mount, piece) {
        return Ok(mount);
    }
    match kind {
        SourceKind::Directory { tmpfs_bytes: Some(size) } if mount.destination == "/dev/shm" => {
            return Ok(shared_memory(size, mount));
        }
        SourceKind::Char { major, minor } => return device(path, &source, major, minor, mount),
        SourceKind::Block { major, minor } => {
            return block_device(inputs, path, &source, major, minor, mount);
        }
        SourceKind::Socket => piece.warnings.push(format!(
            "{path}: {source:?} is a socket of the host; it will be seen in the machine, but connecting to it fails"
        )),
        SourceKind::Fifo => piece.warnings.push(format!(
            "{path}: {source:?} is a pipe of the host; it joins processes of the machine only, not with the host's"
        )),
        SourceKind::Directory { .. } | SourceKind::File | SourceKind::Missing => {}
    }
    let name = format!("m{index}");
    let readonly_below = mount.recursive.is_some_and(|(set, _)| set & MOUNT_ATTR_RDONLY != 0);
    piece.host.push(HostStep::Stage {
        name: name.clone(),
        source,
        directory: matches!(kind, SourceKind::Directory { .. }),
        readonly: mount.flags & MS_RDONLY != 0 || readonly_below,
        readonly_below,
        recursive: mount.flags & MS_REC != 0,
    });
    mount.source = Source::Share { tag: SHARE_TAG.into(), path: name };
    Ok(mount)
}

/// Binds of the host's kernel interfaces: shown is the machine's own kernel, for any other would be a lie.
fn machines_own(path: &str, source: &Path, mount: &Mount, piece: &mut Piece) -> Option<Mount> {
    let source = source.to_str()?;
    let below =
        |top: &str| source == top || source.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
    let top = ["/sys/fs/cgroup", "/proc", "/sys", "/dev"].into_iter().find(|top| below(top))?;
    let process = source.strip_prefix("/proc/").and_then(|rest| rest.split('/').next()).unwrap_or("");
    if process.parse::<u32>().is_ok() || ["self", "thread-self"].contains(&process) {
        return None; // a detour to an ordinary path: /proc/PID/fd/N, /proc/PID/root/..
    }
    if top == "/dev" && source != "/dev" {
        return None; // single devices and /dev/shm have rules of their own
    }
    piece.warnings.push(format!(
        "{path}: {source:?} belongs to the host's kernel; the container gets the machine's own instead"
    ));
    let fresh = |fstype: &str| Mount {
        source: Source::Virtual(fstype.into()),
        fstype: fstype.into(),
        flags: mount.flags & !(MS_BIND | MS_REC),
        recursive: None,
        id_map: None,
        ..mount.clone()
    };
    Some(match source {
        // A bind of the machine's /proc would show its processes, and its cgroup root what is outside the container.
        "/proc" => fresh("proc"),
        "/sys/fs/cgroup" => fresh("cgroup2"),
        _ => Mount { source: Source::Machine(source.into()), id_map: None, ..mount.clone() },
    })
}

/// A tmpfs of the host holds memory that is shared between processes, which cannot reach over the machine's border:
/// the machine makes one of the same size. (Podman hands /dev/shm over like this.)
fn shared_memory(size: u64, mount: Mount) -> Mount {
    Mount {
        source: Source::Virtual("shm".into()),
        fstype: "tmpfs".into(),
        flags: (mount.flags & !(MS_BIND | MS_REC)) | MS_NOSUID | MS_NODEV | MS_NOEXEC,
        data: format!("mode=1777,size={size}"),
        recursive: None,
        id_map: None,
        ..mount
    }
}

/// A bind of a disk's node: the machine has the disk, and the node is its own.
fn block_device(
    inputs: &Inputs,
    path: &str,
    source: &Path,
    major: u32,
    minor: u32,
    mount: Mount,
) -> Result<Mount, PlanError> {
    let disk = disk(inputs, major, minor)?.ok_or_else(|| {
        let why = format!("block device {source:?} ({major}:{minor}) is no disk of the machine");
        PlanError::refused(format!("{path}.source"), why, "mount it on the host and bind the directory")
    })?;
    Ok(Mount { source: Source::DiskNode { serial: disk.serial }, id_map: None, ..mount })
}

/// A bind of a virtual device, for example of /dev/null over a file that shall be hidden.
fn device(path: &str, source: &Path, major: u32, minor: u32, mount: Mount) -> Result<Mount, PlanError> {
    match machine_path(major, minor) {
        Some(own) => Ok(Mount { source: Source::Machine(own.into()), id_map: None, ..mount }),
        None => Err(PlanError::refused(
            format!("{path}.source"),
            format!(
                "character device {major}:{minor} ({source:?}) is the host's and cannot be seen in the machine"
            ),
            "remove the mount; null, zero, full, random, urandom, tty, tun, fuse and kvm exist in the machine",
        )),
    }
}
