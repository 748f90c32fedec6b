//! Block devices of the host that are disks of the machine: what names them by the host's numbers gets the machine's.
//!
//! ```text
//!   HostDisk{serial, host's numbers} ─► node of the disk ─► its numbers ─► Device steps, device rules
//! ```

use crate::error::{Doing, Result};
use crate::machine::shares;
use guest_protocol::message::{DeviceKind, DeviceRule, Step};
use rustix::fs::{major, minor};

/// Major and minor.
type Number = (u32, u32);

/// A disk, as the host numbers it and as the machine does.
#[derive(Debug, Clone, Copy)]
struct Disk {
    host: Number,
    machine: Number,
}

/// Puts the machine's numbers into the steps.
///
/// # Errors
/// When a disk does not appear in time.
pub fn renumber(steps: &mut [Step]) -> Result<()> {
    let mut disks = Vec::new();
    for step in steps.iter() {
        let Step::HostDisk(disk) = step else { continue };
        let node = shares::disk_node(&disk.serial)?;
        let number = rustix::fs::stat(&node).doing(|| format!("look at {}", node.display()))?.st_rdev;
        disks.push(Disk { host: (disk.major, disk.minor), machine: (major(number), minor(number)) });
    }
    if disks.is_empty() {
        return Ok(());
    }
    // The container may mount them, and they must be clean when the machine ends.
    shares::note_disks();
    for step in steps {
        match step {
            Step::Device(device) if device.kind == DeviceKind::Block => {
                let host = (device.major, device.minor);
                if let Some(disk) = disks.iter().find(|disk| disk.host == host) {
                    (device.major, device.minor) = disk.machine;
                }
            }
            Step::Cgroup(limits) => limits.devices = rules(&limits.devices, &disks),
            _ => {}
        }
    }
    Ok(())
}

/// The same rules, about the machine's disks. A rule about other devices of the host stays as it is, unless it would be about one
/// of these disks by an accident of numbers.
fn rules(rules: &[DeviceRule], disks: &[Disk]) -> Vec<DeviceRule> {
    let mut renumbered = Vec::with_capacity(rules.len());
    for rule in rules {
        let (Some(DeviceKind::Block), Some(of)) = (rule.kind, rule.major) else {
            renumbered.push(*rule);
            continue;
        };
        let named = |host: Number| host.0 == of && rule.minor.is_none_or(|minor| minor == host.1);
        for disk in disks.iter().filter(|disk| named(disk.host)) {
            renumbered.push(DeviceRule { major: Some(disk.machine.0), minor: Some(disk.machine.1), ..*rule });
        }
        if !disks.iter().any(|disk| disk.machine.0 == of) {
            renumbered.push(*rule);
        }
    }
    renumbered
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of the host's disks, and the machine's driver has the number that another driver has there.
    const DISKS: [Disk; 2] =
        [Disk { host: (7, 3), machine: (254, 16) }, Disk { host: (254, 0), machine: (254, 32) }];

    fn rule(kind: Option<DeviceKind>, major: Option<u32>, minor: Option<u32>) -> DeviceRule {
        DeviceRule { allow: true, kind, major, minor, access: 7 }
    }

    fn block(major: u32, minor: Option<u32>) -> DeviceRule {
        rule(Some(DeviceKind::Block), Some(major), minor)
    }

    #[test]
    fn a_rule_about_a_disk_gets_its_number() {
        assert_eq!(rules(&[block(254, Some(0))], &DISKS), [block(254, Some(32))]);
        let one = DeviceRule { allow: false, access: 2, ..block(7, Some(3)) };
        let other = DeviceRule { major: Some(254), minor: Some(16), ..one };
        assert_eq!(rules(&[one], &DISKS), [other, one], "the host's loop device 3 is the machine's disk");
    }

    #[test]
    fn a_rule_about_a_driver_is_about_its_disks_and_no_others() {
        assert_eq!(rules(&[block(254, None)], &DISKS), [block(254, Some(32))]);
        assert_eq!(rules(&[block(7, None)], &DISKS), [block(254, Some(16)), block(7, None)]);
        assert_eq!(rules(&[block(254, Some(16))], &DISKS), [], "the host's 254:16 is not in the machine");
    }

    #[test]
    fn rules_about_everything_else_stay_in_their_order() {
        let all = rule(None, None, None);
        let chars = rule(Some(DeviceKind::Char), Some(254), Some(0));
        let blocks = rule(Some(DeviceKind::Block), None, None);
        let given = [all, chars, blocks, block(8, Some(0))];
        assert_eq!(rules(&given, &DISKS), given);
    }

    #[test]
    fn steps_without_disks_stay_as_they_are() {
        let mut steps = [Step::ReadonlyRoot];
        renumber(&mut steps).unwrap();
        assert_eq!(steps, [Step::ReadonlyRoot]);
    }
}
