//! Device nodes of the container, and the rules which devices its programs may open.
//!
//! A node is two numbers; what answers is the machine's kernel. So devices that a kernel makes from nothing work, disks
//! are passed (`host_disks.rs`), and other devices of the host are refused.
//!
//! A container that may open every device (`--privileged`) has, with the engines, all devices of the host in its list: those that
//! the machine has not are left out then.

use super::{Inputs, Piece, PlanError};
use crate::bundle::{bind_source, lexically_clean};
use guest_protocol::message::{Device, DeviceKind, DeviceRule, IfAbsent, Step};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

/// Devices that every container gets (OCI "Default Devices"): path, major, minor.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container gets.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Where the machine itself has a virtual character device, by number (`Documentation/admin-guide/devices.txt`).
pub(super) fn machine_path(major: u32, minor: u32) -> Option<&'static str> {
    Some(match (major, minor) {
        (1, 1) => "/dev/mem",
        (1, 11) => "/dev/kmsg",
        (5, 1) => "/dev/console",
        (5, 2) => "/dev/ptmx",
        (10, 200) => "/dev/net/tun",
        (10, 229) => "/dev/fuse",
        (10, 232) => "/dev/kvm",
        _ => DEFAULT.iter().find(|(_, ma, mi)| (*ma, *mi) == (major, minor))?.0,
    })
}

pub(super) fn devices(inputs: &Inputs) -> Result<Piece, PlanError> {
    let mut piece = Piece::default();
    let empty = Vec::new();
    let linux = inputs.bundle.spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.devices().as_ref()).unwrap_or(&empty);
    let wanted = nodes(inputs, wanted, &mut piece.warnings)?;
    // With the machine's /dev bound over it, the container has all of it already, and must not change it.
    if own_dev(inputs) {
        return Ok(piece);
    }
    for (path, major, minor) in DEFAULT {
        if !wanted.iter().any(|device| device.path == path) {
            let device = Device {
                path: path.into(),
                kind: DeviceKind::Char,
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
                if_absent: IfAbsent::Make,
            };
            piece.guest.push(Step::Device(device));
        }
    }
    piece.guest.extend(wanted.into_iter().map(Step::Device));
    let link = |(target, path): (&str, &str)| Step::Symlink { target: target.into(), path: path.into() };
    piece.guest.extend(LINKS.map(link));
    Ok(piece)
}

/// Whether the machine's /dev is bound over the container's.
pub(super) fn own_dev(inputs: &Inputs) -> bool {
    inputs.bundle.spec.mounts().iter().flatten().any(|mount| {
        lexically_clean(mount.destination()).as_os_str() == "/dev"
            && bind_source(&inputs.bundle.dir, mount).is_some()
    })
}

/// The nodes of `linux.devices`.
fn nodes(
    inputs: &Inputs,
    wanted: &[LinuxDevice],
    warnings: &mut Vec<String>,
) -> Result<Vec<Device>, PlanError> {
    let all_allowed = all_allowed(inputs)?;
    let if_absent = if all_allowed { IfAbsent::LeaveOut } else { IfAbsent::Refuse };
    let (mut nodes, mut disks, mut others) = (Vec::new(), 0, 0);
    for (index, device) in wanted.iter().enumerate() {
        let node = node(index, device, if_absent)?;
        match node.kind {
            DeviceKind::Block if all_allowed => disks += 1,
            DeviceKind::Char if !in_machine(node.major, node.minor) => {
                if !all_allowed {
                    return Err(not_in_machine(index, &node));
                }
                others += 1;
            }
            _ => nodes.push(node),
        }
    }
    if disks + others > 0 {
        warnings.push(format!(
            "linux.devices: {} of {} devices are the host's and are left out: {others} are not in the virtual machine, and {disks} are disks, which \
             a container that may open every device gets only by a bind mount (-v /dev/NAME:/dev/NAME)",
            disks + others,
            wanted.len(),
        ));
    }
    Ok(nodes)
}

fn not_in_machine(index: usize, node: &Device) -> PlanError {
    let Device { path, major, minor, .. } = node;
    let why = format!(
        "character device {path:?} ({major}:{minor}) is the host's and cannot be in a virtual machine"
    );
    PlanError::refused(
        format!("linux.devices[{index}]"),
        why,
        "remove it (with Docker or Podman: no --device for it)",
    )
}

fn node(index: usize, device: &LinuxDevice, if_absent: IfAbsent) -> Result<Device, PlanError> {
    let path = format!("linux.devices[{index}]");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(PlanError::invalid(format!("{path}.type"), "must be b, c, u or p")),
    };
    let name = device.path().to_str().filter(|p| p.starts_with('/') && !p.contains('\0'));
    let Some(_) = name.filter(|_| lexically_clean(device.path()).as_os_str() != "/") else {
        return Err(PlanError::invalid(format!("{path}.path"), "must be an absolute path"));
    };
    let number = |value: i64, field: &str| {
        u32::try_from(value).map_err(|_| PlanError::invalid(format!("{path}.{field}"), "must be 0 or more"))
    };
    let (major, minor) = match kind {
        DeviceKind::Fifo => (0, 0),
        _ => (number(device.major(), "major")?, number(device.minor(), "minor")?),
    };
    let if_absent = match kind {
        DeviceKind::Char if !always_there(major, minor) => if_absent,
        _ => IfAbsent::Make,
    };
    let clean = lexically_clean(device.path()).to_string_lossy().into_owned();
    let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    Ok(Device { path: clean, kind, major, minor, mode, uid, gid, if_absent })
}

/// Whether a kernel may have such a character device of its own, and it means the same in the machine as on the host: memory devices
/// (1), terminals (4:0-63, 5), pseudo-terminals (136), and of the misc devices (10) those without hardware: watchdog, TUN,
/// CUSE, FUSE, KVM, Btrfs, autofs, device mapper, loop (`include/linux/miscdevice.h`). The agent knows whether this one has it.
fn in_machine(major: u32, minor: u32) -> bool {
    match major {
        1 | 5 | 136 => true,
        4 => minor < 64,
        10 => matches!(minor, 130 | 200 | 203 | 229 | 232 | 234..=237),
        _ => false,
    }
}

/// Whether every kernel has it: the default devices, the controlling terminal, the console, pseudo-terminals.
fn always_there(major: u32, minor: u32) -> bool {
    matches!((major, minor), (5, 0..=2) | (136, _)) || DEFAULT.iter().any(|d| (d.1, d.2) == (major, minor))
}

/// Bits of a rule's access (BPF_DEVCG_ACC_* of `include/uapi/linux/bpf.h`).
const MKNOD: u8 = 1;
/// See [`MKNOD`].
pub(super) const READ: u8 = 2;
/// See [`MKNOD`].
pub(super) const WRITE: u8 = 4;

/// Every access.
const ALL: u8 = MKNOD | READ | WRITE;

/// What may be done to a block device at the end of these rules.
pub(super) fn access(rules: &[DeviceRule], major: u32, minor: u32) -> u8 {
    let about = |rule: &&DeviceRule| {
        rule.kind.is_none_or(|kind| kind == DeviceKind::Block)
            && rule.major.is_none_or(|n| n == major)
            && rule.minor.is_none_or(|n| n == minor)
    };
    rules.iter().filter(about).fold(
        0,
        |access, rule| {
            if rule.allow { access | rule.access } else { access & !rule.access }
        },
    )
}

/// Whether the container may open every device: the last rule for everything allows it.
pub(super) fn all_allowed(inputs: &Inputs) -> Result<bool, PlanError> {
    Ok(rules(inputs)?.first().is_some_and(|rule| rule.allow && rule.kind.is_none()))
}

/// Rules for the container's device cgroup: closed, opened by the configuration, and runc's defaults at the end.
pub(super) fn rules(inputs: &Inputs) -> Result<Vec<DeviceRule>, PlanError> {
    let all = DeviceRule { allow: false, kind: None, major: None, minor: None, access: ALL };
    let mut rules = vec![all];
    let resources = inputs.bundle.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let given = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
    for (index, rule) in given.iter().enumerate() {
        let rule = device_rule(index, rule)?;
        if rule.kind.is_none() {
            rules.clear(); // a rule for everything makes the ones before it pointless
        }
        rules.push(rule);
    }
    let allow =
        |kind, major, minor, access| DeviceRule { allow: true, kind: Some(kind), major, minor, access };
    let char = |major, minor| allow(DeviceKind::Char, Some(major), minor, ALL);
    // Making a node is harmless: opening it is what the other rules decide.
    rules.extend([DeviceKind::Char, DeviceKind::Block].map(|kind| allow(kind, None, None, MKNOD)));
    rules.extend(DEFAULT.map(|(_, major, minor)| char(major, Some(minor))));
    rules.extend([char(5, Some(1)), char(5, Some(2)), char(136, None), char(10, Some(200))]);
    Ok(rules)
}

fn device_rule(index: usize, rule: &LinuxDeviceCgroup) -> Result<DeviceRule, PlanError> {
    let path = format!("linux.resources.devices[{index}]");
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(DeviceKind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(DeviceKind::Char),
        LinuxDeviceType::P => return Err(PlanError::invalid(format!("{path}.type"), "must be a, b or c")),
    };
    let number = |value: Option<i64>, field: &str| match value {
        None | Some(-1) => Ok(None), // Go programs write -1 for any
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| PlanError::invalid(format!("{path}.{field}"), "must be 0 or more, or -1 for any")),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'm' => MKNOD,
            'r' => READ,
            'w' => WRITE,
            _ => {
                return Err(PlanError::invalid(
                    format!("{path}.access"),
                    "may only have the letters r, w and m",
                ));
            }
        };
    }
    let (major, minor) = match kind {
        None => (None, None), // as in runc: type `a` stands for every device, whatever numbers are given
        Some(_) => (number(rule.major(), "major")?, number(rule.minor(), "minor")?),
    };
    let access = if kind.is_none() || access == 0 { ALL } else { access };
    Ok(DeviceRule { allow: rule.allow(), kind, major, minor, access })
}
