//! Capabilities: none. Threads that serve a share as root get what a container's root file system takes.

use super::{JailError, Role, doing};
use crate::machine::devices::OpenDevice;
use crate::machine::hotplug::slots::{Kind, SlotCounts};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// To read what its owner has closed.
const READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// To change files as their owners do: give them to the user who asked, pass over modes (the guest has checked them), change
/// modes, keep set-group-id, make device nodes (which are never opened here), set file capabilities.
const WRITE: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Those of a thread.
pub fn of_role(role: Role) -> CapabilitySet {
    match role {
        Role::Share { readonly: true } => READ,
        Role::Share { readonly: false } => WRITE,
        Role::EventLoop | Role::VhostUser | Role::Vcpu | Role::Disk | Role::Flush => CapabilitySet::empty(),
    }
}

/// Those of all threads of these devices.
pub fn of_devices(devices: &[OpenDevice]) -> CapabilitySet {
    let of = |device: &OpenDevice| match device {
        OpenDevice::Share { readonly, .. } => of_role(Role::Share { readonly: *readonly }),
        _ => CapabilitySet::empty(),
    };
    devices.iter().map(of).fold(CapabilitySet::empty(), CapabilitySet::union)
}

/// Those of all threads that wait for devices.
pub fn of_slots(slots: &SlotCounts) -> CapabilitySet {
    let of = |readonly| match slots.count(Kind::Share { readonly }) {
        0 => CapabilitySet::empty(),
        _ => of_role(Role::Share { readonly }),
    };
    of(false) | of(true)
}

/// Drops all from all sets of this thread, and of those that it starts, but `wanted` as far as it has them; returns what is left.
///
/// # Errors
/// When the kernel refuses.
pub fn keep(wanted: CapabilitySet) -> Result<CapabilitySet, JailError> {
    let had = rustix::thread::capabilities(None).map_err(doing("reading the capabilities"))?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
                1 << number,
            )) {
                Ok(()) => {}
                // One more than the kernel knows.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(doing("dropping capabilities for good")(errno)),
            }
        }
    }
    let left = wanted & had.permitted;
    set(left).map_err(doing("dropping capabilities"))?;
    Ok(left)
}

/// Leaves this thread these. What is not inheritable is not ambient either.
pub fn set(left: CapabilitySet) -> Result<(), Errno> {
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}
