//! Block devices of the host that become disks of the machine.
//!
//! ```text
//!   linux.devices, bind mount ──► is it on the host? may anything open it?
//!                                  └─► machine: Block{disk0, /dev/NAME}   guest: HostDisk{disk0, host's numbers}
//! ```
//!
//! A disk that the device rules let nobody open stays out of the machine, whose kernel would be trusted with it for nothing. A container
//! that may open every device gets those alone that are bound into it, by name: engines list all disks of the host for it.

use super::devices::{READ, WRITE, access, all_allowed, own_dev, rules};
use super::{Inputs, Piece, PlanError};
use crate::bundle::{HostDisk, SourceKind, bind_source};
use guest_protocol::message::{HostDisk as GuestDisk, Step};
use machine_spec::Device;
use oci_spec::runtime::LinuxDeviceType;

/// Most of them in one machine: the boards with the most room have about 30 places, some for network devices.
const MAX_DISKS: usize = 16;

/// A block device of the host, and the disk that it is in the machine.
pub(super) struct Disk<'a> {
    /// In the machine.
    pub serial: String,
    /// Nothing of the machine can write it.
    pub readonly: bool,
    host: &'a HostDisk,
}

/// A block device that the configuration names.
struct Wanted {
    path: String,
    what: String,
    major: u32,
    minor: u32,
    bind: bool,
}

/// All disks that are passed, in the order in which the configuration names them.
pub(super) fn passed<'a>(inputs: &Inputs<'a>) -> Result<Vec<Disk<'a>>, PlanError> {
    let rules = rules(inputs)?;
    let mut disks: Vec<Disk> = Vec::new();
    for Wanted { path, what, major, minor, bind } in wanted(inputs)? {
        let access = access(&rules, major, minor);
        if access & (READ | WRITE) == 0 {
            if bind {
                let why = format!("the device rules let nothing open block device {what} ({major}:{minor})");
                let fix = "allow it in linux.resources.devices (with Docker or Podman: --device)";
                return Err(PlanError::refused(path, why, fix));
            }
            continue;
        }
        let Some(host) = inputs.bundle.disks.iter().find(|d| (d.major, d.minor) == (major, minor)) else {
            let why = format!("the host has no block device {what} ({major}:{minor})");
            return Err(PlanError::refused(path, why, "remove it, or name one that the host has"));
        };
        if !disks.iter().any(|disk| disk.host == host) {
            let serial = format!("disk{}", disks.len());
            disks.push(Disk { serial, readonly: access & WRITE == 0 || host.readonly, host });
        }
        if disks.len() > MAX_DISKS {
            let why = format!("more than {MAX_DISKS} block devices, for which a machine has no room");
            return Err(PlanError::refused(path, why, "give the container fewer"));
        }
    }
    Ok(disks)
}

/// The disk that the host's block device is in the machine.
pub(super) fn disk<'a>(inputs: &Inputs<'a>, major: u32, minor: u32) -> Result<Option<Disk<'a>>, PlanError> {
    Ok(passed(inputs)?.into_iter().find(|disk| (disk.host.major, disk.host.minor) == (major, minor)))
}

pub(super) fn host_disks(inputs: &Inputs) -> Result<Piece, PlanError> {
    let mut piece = Piece::default();
    for Disk { serial, readonly, host } in passed(inputs)? {
        let (path, major, minor) = (host.node.clone(), host.major, host.minor);
        piece.devices.push(Device::Block { serial: serial.clone(), path, readonly });
        piece.guest.push(Step::HostDisk(GuestDisk { serial, major, minor }));
    }
    Ok(piece)
}

fn wanted(inputs: &Inputs) -> Result<Vec<Wanted>, PlanError> {
    let spec = &inputs.bundle.spec;
    let mut wanted = Vec::new();
    if !all_allowed(inputs)? && !own_dev(inputs) {
        let devices = spec.linux().as_ref().and_then(|l| l.devices().as_deref()).unwrap_or_default();
        let disks = devices.iter().enumerate().filter(|(_, device)| device.typ() == LinuxDeviceType::B);
        wanted.extend(disks.filter_map(|(index, device)| {
            // Numbers below 0 have their own refusal.
            let number = |value: i64| u32::try_from(value).ok();
            Some(Wanted {
                path: format!("linux.devices[{index}]"),
                what: format!("{:?}", device.path()),
                major: number(device.major())?,
                minor: number(device.minor())?,
                bind: false,
            })
        }));
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let Some(source) = bind_source(&inputs.bundle.dir, mount) else { continue };
        if let Some(&SourceKind::Block { major, minor }) = inputs.bundle.sources.get(&source) {
            let path = format!("mounts[{index}].source");
            wanted.push(Wanted { path, what: format!("{source:?}"), major, minor, bind: true });
        }
    }
    Ok(wanted)
}
