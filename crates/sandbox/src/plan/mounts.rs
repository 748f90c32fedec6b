//! The mounts of the configuration, in its order.
//!
//! ```text
//!   bind of a host path ──► host: Stage m0, m1, ..    guest: bind from the share
//!   proc, tmpfs, ...    ──►                           guest: mount of the same type
//!   bind of /proc, /sys, a virtual device, a tmpfs at /dev/shm ──► the machine's own (with a warning)
//! ```

use super::bind;
use super::id_maps::{container_maps, maps};
use super::mount_options::{MountOptions, parse};
use super::{Inputs, Piece, PlanError};
use crate::bundle::{bind_source, lexically_clean};
use guest_protocol::message::{Mount, Source, Step, UserNamespace};
use libc::{MS_BIND, MS_REMOUNT};
use oci_spec::runtime as oci;

/// File systems that the guest's kernel makes itself, without a device or host path behind them.
const VIRTUAL: [&str; 18] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "devpts",
    "mqueue",
    "cgroup2",
    "devtmpfs",
    "bpf",
    "debugfs",
    "tracefs",
    "securityfs",
    "hugetlbfs",
    "configfs",
    "fusectl",
    "pstore",
    "efivarfs",
    "binfmt_misc",
];

/// Most mounts of one container; each bind costs a mount on the host too.
const MAX_MOUNTS: usize = 4096;

pub(super) fn mounts(inputs: &Inputs) -> Result<Piece, PlanError> {
    let mut piece = Piece::default();
    let all = inputs.bundle.spec.mounts().as_deref().unwrap_or_default();
    if all.len() > MAX_MOUNTS {
        return Err(PlanError::invalid(
            "mounts",
            format!("{} are more than {MAX_MOUNTS}, the limit", all.len()),
        ));
    }
    for (index, mount) in all.iter().enumerate() {
        one(inputs, index, mount, &mut piece)?;
    }
    Ok(piece)
}

fn one(inputs: &Inputs, index: usize, mount: &oci::Mount, piece: &mut Piece) -> Result<(), PlanError> {
    let path = format!("mounts[{index}]");
    let options = parse(mount.options().as_deref().unwrap_or_default());
    let planned = Mount {
        source: Source::Virtual(String::new()),
        destination: destination(&path, mount, piece)?,
        fstype: String::new(),
        flags: options.flags,
        data: options.data.join(","),
        propagation: options.propagation.clone(),
        recursive: options.recursive,
        copy_up: options.copy_up,
        id_map: id_map(inputs, &path, mount, &options)?,
    };
    if options.flags & MS_REMOUNT != 0 {
        let fix = "give the options on the mount itself";
        return Err(PlanError::refused(format!("{path}.options"), "\"remount\" changes another mount", fix));
    }
    let planned = match bind_source(&inputs.bundle.dir, mount) {
        Some(source) => bind::bind(inputs, &path, index, source, planned, piece)?,
        None => virtual_mount(&path, mount, planned)?,
    };
    if planned.copy_up && planned.fstype != "tmpfs" {
        return Err(PlanError::invalid(format!("{path}.options"), "\"tmpcopyup\" is only for type tmpfs"));
    }
    piece.guest.push(Step::Mount(planned));
    Ok(())
}

fn destination(path: &str, mount: &oci::Mount, piece: &mut Piece) -> Result<String, PlanError> {
    let path = format!("{path}.destination");
    let Some(given) = mount.destination().to_str().filter(|d| !d.is_empty() && !d.contains('\0')) else {
        return Err(PlanError::invalid(path, "must be a path"));
    };
    if !given.starts_with('/') {
        piece
            .warnings
            .push(format!("{path}: {given:?} is not absolute; taken as below the root, as runc does"));
    }
    let clean = lexically_clean(mount.destination());
    match clean.to_str() {
        Some(clean) if clean != "/" => Ok(clean.to_string()),
        _ => Err(PlanError::invalid(path, "must not be the root; root.path is for that")),
    }
}

fn virtual_mount(path: &str, mount: &oci::Mount, planned: Mount) -> Result<Mount, PlanError> {
    let fstype = match mount.typ().as_deref() {
        // The machine has the unified hierarchy only.
        Some("cgroup") => "cgroup2",
        Some(fstype) => fstype,
        None => "",
    };
    if !VIRTUAL.contains(&fstype) {
        let why = match fstype {
            "" | "none" => "a mount without type needs the option bind or rbind".to_string(),
            _ => format!("file systems of type {fstype:?} have their data outside the machine"),
        };
        let fix = "mount it on the host and use a bind mount";
        return Err(PlanError::refused(format!("{path}.type"), why, fix));
    }
    if planned.flags & MS_BIND != 0 {
        return Err(PlanError::invalid(format!("{path}.source"), "a bind mount needs a source"));
    }
    let source = mount.source().as_ref().and_then(|s| s.to_str()).unwrap_or(fstype);
    Ok(Mount { source: Source::Virtual(source.into()), fstype: fstype.into(), ..planned })
}

/// Maps of an id-mapped mount: its own, else the container's.
fn id_map(
    inputs: &Inputs,
    path: &str,
    mount: &oci::Mount,
    options: &MountOptions,
) -> Result<Option<UserNamespace>, PlanError> {
    let (uid, gid) = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
    let own = match (uid.unwrap_or_default(), gid.unwrap_or_default()) {
        ([], []) => None,
        ([], _) | (_, []) => {
            return Err(PlanError::invalid(path, "uidMappings and gidMappings must be given together"));
        }
        (uid, gid) => Some(maps(path, uid, gid)?),
    };
    match (own, options.id_map) {
        // As in runc, maps alone ask for an id-mapped mount too.
        (Some(own), _) => Ok(Some(own)),
        (None, None) => Ok(None),
        (None, Some(_)) => match container_maps(inputs)? {
            Some(maps) => Ok(Some(maps)),
            None => Err(PlanError::invalid(
                format!("{path}.options"),
                "\"idmap\" needs uidMappings and gidMappings on the mount, or a user namespace",
            )),
        },
    }
}
