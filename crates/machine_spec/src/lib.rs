//! What a virtual machine is, as pure data: the contract between whoever plans a machine and the
//! program that runs it.
//!
//! A [`MachineSpec`] names everything up front (block serials, share tags, network devices, the agent port), so nothing a VMM
//! learns while it boots has to travel back up. It holds no handles: file descriptors that a machine needs
//! are donated beside it by the launcher.
//!
//! Callers: `sandbox` builds it, `machine` turns it into a running VM.

pub mod mini_os;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of this data model. A reader refuses every other value.
pub const VERSION: u32 = 1;

/// Longest kernel command line an x86-64 kernel accepts, in bytes, without the terminating NUL
/// (`COMMAND_LINE_SIZE` in `arch/x86/include/asm/setup.h`).
pub const MAX_CMDLINE: usize = 2047;

/// Most vCPUs a spec may ask for.
pub const MAX_VCPUS: u32 = 255;

/// Least memory with which a Linux guest of ours boots, in MiB.
pub const MIN_MEMORY_MIB: u64 = 48;

/// Most devices of [`Chassis::Microvm`]: QEMU's board has so many virtio-mmio transports with one interrupt controller.
pub const MAX_MICROVM_DEVICES: usize = 8;

/// Longest name of a device (block serial, share tag), in bytes: `VIRTIO_BLK_ID_BYTES` is 20.
pub const MAX_DEVICE_NAME: usize = 20;

/// Most pairs of queues of a network device.
pub const MAX_QUEUES: u32 = 8;

/// A whole virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// Must be [`VERSION`].
    pub version: u32,
    /// Name shown in process listings and log lines, for example the container's id.
    pub name: String,
    /// How guest instructions are executed.
    pub accelerator: Accelerator,
    /// Which board carries the devices.
    pub chassis: Chassis,
    /// Number of vCPUs, 1..=[`MAX_VCPUS`].
    pub vcpus: u32,
    /// Guest RAM in MiB, at least [`MIN_MEMORY_MIB`].
    pub memory_mib: u64,
    /// What is booted.
    pub kernel: Kernel,
    /// Whether a UART carries the guest's console. Each byte on it costs a VM exit.
    pub console: bool,
    /// Devices, in the order in which the guest meets them.
    pub devices: Vec<Device>,
}

/// How guest instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// Hardware virtualization through /dev/kvm.
    Kvm,
    /// Binary translation in user space (QEMU's TCG): works everywhere, several times slower.
    Emulation,
}

/// Which board the machine has: one of QEMU's, or the only one of clear-vmm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chassis {
    /// virtio-mmio devices named on the kernel command line, no firmware tables. Fastest to boot; cannot map pmem.
    Microvm,
    /// PCI Express with ACPI. Needed for pmem (DAX) and for kernels without `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`.
    Q35,
    /// clear-vmm's: one PCI bus with MSI-X, no firmware, no legacy timers. Needs KVM; maps pmem.
    Clear,
}

/// What is booted, without firmware or boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Uncompressed ELF `vmlinux` with a PVH note, or a bzImage.
    pub path: PathBuf,
    /// Kernel parameters, at most [`MAX_CMDLINE`] bytes when joined by blanks.
    pub cmdline: Vec<String>,
    /// Initial RAM file system (cpio, newc), when the root is not a device.
    pub initramfs: Option<PathBuf>,
}

/// One device. The enum is closed: a new variant makes the compiler list every place to touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Device {
    /// The byte channel to the agent as a virtio-serial port (QEMU). The launcher donates the host end.
    AgentChannel {
        /// Name of the port in the guest (`/sys/class/virtio-ports/*/name`).
        port: String,
    },
    /// A vsock device (clear-vmm). The guest's first connection to the host's `agent_port` leads to the agent channel, whose
    /// host end the launcher donates.
    Vsock {
        /// vsock port, at host CID 2.
        agent_port: u32,
    },
    /// A disk backed by a raw file or block device.
    Block {
        /// virtio-blk serial, by which the guest finds it (`/sys/block/*/serial`).
        serial: String,
        /// File or block device on the host.
        path: PathBuf,
        /// Opened read-only on the host: no guest can write it.
        readonly: bool,
    },
    /// An image mapped into guest memory (DAX). Always read-only and shared between machines.
    Pmem {
        /// File on the host; its length is a multiple of 2 MiB.
        path: PathBuf,
        /// Length of the mapping in bytes.
        size: u64,
    },
    /// A host directory offered to the guest.
    Share {
        /// Tag by which the guest mounts it.
        tag: String,
        /// Directory on the host.
        path: PathBuf,
        /// Refuse writes on the host side.
        readonly: bool,
    },
    /// A network interface on a tap that the launcher donates under this device's name.
    Net {
        /// Name of the donated tap.
        name: String,
        /// Address by which the guest finds the device; it may give itself another one.
        mac: [u8; 6],
        /// Pairs of queues, 1..=[`MAX_QUEUES`]. With more than one the tap has as many (IFF_MULTI_QUEUE), and the launcher donates a
        /// descriptor for each. A spec with 1 leaves the field out, as those did that were written before it was there.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        queues: u32,
    },
    /// A PCI function of the host that is bound to vfio-pci: the machine drives it itself.
    Vfio {
        /// Address on the host, for example `0000:01:10.0`.
        host: String,
        /// Place on the machine's first bus, in [`VFIO_SLOTS`]: the guest finds it at `0000:00:<slot>.0`.
        slot: u8,
    },
}

/// Places of functions of the host: above those that other devices get, which are counted from 1.
pub const VFIO_SLOTS: std::ops::RangeInclusive<u8> = 0x10..=0x1e;

/// Whether `text` is the address of a PCI function: `DDDD:BB:DD.F`, hexadecimal.
pub fn is_pci_address(text: &str) -> bool {
    let bytes = text.as_bytes();
    let separators = [(4, b':'), (7, b':'), (10, b'.')];
    bytes.len() == 12
        && bytes.iter().enumerate().all(|(at, byte)| {
            match separators.iter().find(|(place, _)| *place == at) {
                Some((_, separator)) => byte == separator,
                None => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            }
        })
}

fn one() -> u32 {
    1
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

/// A spec that cannot be a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// machine spec version {0} is not supported; this program speaks version 1
    #[error("machine spec version {0} is not supported; this program speaks version {VERSION}")]
    Version(u32),
    /// a machine needs 1 to 255 vCPUs, not {0}
    #[error("a machine needs 1 to {MAX_VCPUS} vCPUs, not {0}")]
    Vcpus(u32),
    /// a machine needs at least 48 MiB of memory, not {0} MiB
    #[error("a machine needs at least {MIN_MEMORY_MIB} MiB of memory, not {0} MiB")]
    Memory(u64),
    /// the kernel command line has {0} bytes, more than the 2047 a kernel accepts
    #[error("the kernel command line has {0} bytes, more than the {MAX_CMDLINE} a kernel accepts")]
    Cmdline(usize),
    /// kernel parameter {0:?} contains a line break or NUL
    #[error("kernel parameter {0:?} contains a line break or NUL")]
    Parameter(String),
    /// device name {0:?} must have 1 to 20 characters from [A-Za-z0-9._-]
    #[error("device name {0:?} must have 1 to {MAX_DEVICE_NAME} characters from [A-Za-z0-9._-]")]
    DeviceName(String),
    /// two devices have the name {0:?}
    #[error("two devices have the name {0:?}")]
    DuplicateName(String),
    /// chassis microvm cannot map pmem devices; use q35
    #[error("chassis microvm cannot map pmem devices; use q35")]
    PmemOnMicrovm,
    /// chassis microvm has room for 8 devices, not {0}; use q35
    #[error(
        "chassis microvm has room for {MAX_MICROVM_DEVICES} devices, not {0}; use q35 (machine.chassis = \"q35\")"
    )]
    TooMany(usize),
    /// chassis clear needs KVM; use microvm or q35 for emulation
    #[error("chassis clear needs KVM; use microvm or q35 for emulation")]
    ClearWithoutKvm,
    /// network device {0:?} has no address of a single interface
    #[error("network device {0:?} has no address of a single interface")]
    Mac(String),
    /// chassis microvm has no PCI, by which functions of the host are passed; use q35
    #[error(
        "chassis microvm has no PCI, by which functions of the host are passed; use q35 (machine.chassis = \"q35\")"
    )]
    VfioOnMicrovm,
    /// {0:?} is not the address of a PCI function, such as 0000:01:10.0
    #[error("{0:?} is not the address of a PCI function, such as 0000:01:10.0")]
    PciAddress(String),
    /// a function of the host has place {0:#x}, which is another's
    #[error("a function of the host has place {0:#x}; each has one of its own, 0x10 to 0x1e")]
    VfioSlot(u8),
    /// network device {0:?} has {1} pairs of queues; 1 to 8 are possible
    #[error("network device {0:?} has {1} pairs of queues; 1 to {MAX_QUEUES} are possible")]
    Queues(String, u32),
    /// pmem image length {0} is not a multiple of 2 MiB
    #[error("pmem image length {0} is not a multiple of 2 MiB")]
    PmemSize(u64),
}

impl Device {
    /// The name by which the guest finds the device, if it is found by name.
    pub fn name(&self) -> Option<&str> {
        match self {
            Device::AgentChannel { port } => Some(port),
            Device::Block { serial, .. } => Some(serial),
            Device::Share { tag, .. } => Some(tag),
            Device::Net { name, .. } => Some(name),
            Device::Pmem { .. } | Device::Vsock { .. } | Device::Vfio { .. } => None,
        }
    }
}

impl MachineSpec {
    /// The kernel parameters as one line.
    pub fn cmdline(&self) -> String {
        self.kernel.cmdline.join(" ")
    }

    /// Checks everything that can be checked without looking at the host.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.version != VERSION {
            return Err(SpecError::Version(self.version));
        }
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(SpecError::Vcpus(self.vcpus));
        }
        if self.memory_mib < MIN_MEMORY_MIB {
            return Err(SpecError::Memory(self.memory_mib));
        }
        if let Some(bad) = self.kernel.cmdline.iter().find(|p| p.contains(['\n', '\r', '\0'])) {
            return Err(SpecError::Parameter(bad.clone()));
        }
        let length = self.cmdline().len();
        if length > MAX_CMDLINE {
            return Err(SpecError::Cmdline(length));
        }
        if self.chassis == Chassis::Clear && self.accelerator != Accelerator::Kvm {
            return Err(SpecError::ClearWithoutKvm);
        }
        self.validate_devices()
    }

    fn validate_devices(&self) -> Result<(), SpecError> {
        if self.chassis == Chassis::Microvm && self.devices.len() > MAX_MICROVM_DEVICES {
            return Err(SpecError::TooMany(self.devices.len()));
        }
        self.validate_functions()?;
        let mut names = std::collections::BTreeSet::new();
        for device in &self.devices {
            if let Some(name) = device.name() {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if name.is_empty() || name.len() > MAX_DEVICE_NAME || !name.chars().all(plain) {
                    return Err(SpecError::DeviceName(name.to_string()));
                }
                if !names.insert(name) {
                    return Err(SpecError::DuplicateName(name.to_string()));
                }
            }
            if let Device::Net { name, mac, queues } = device {
                if mac[0] & 1 != 0 || *mac == [0; 6] {
                    return Err(SpecError::Mac(name.clone()));
                }
                if !(1..=MAX_QUEUES).contains(queues) {
                    return Err(SpecError::Queues(name.clone(), *queues));
                }
            }
            if let Device::Pmem { size, .. } = device {
                if self.chassis == Chassis::Microvm {
                    return Err(SpecError::PmemOnMicrovm);
                }
                if *size == 0 || size % (2 << 20) != 0 {
                    return Err(SpecError::PmemSize(*size));
                }
            }
        }
        Ok(())
    }

    fn validate_functions(&self) -> Result<(), SpecError> {
        let mut taken = std::collections::BTreeSet::new();
        for device in &self.devices {
            let Device::Vfio { host, slot } = device else { continue };
            if self.chassis == Chassis::Microvm {
                return Err(SpecError::VfioOnMicrovm);
            }
            if !is_pci_address(host) {
                return Err(SpecError::PciAddress(host.clone()));
            }
            if !VFIO_SLOTS.contains(slot) || !taken.insert(slot) {
                return Err(SpecError::VfioSlot(*slot));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> MachineSpec {
        MachineSpec {
            version: VERSION,
            name: "t".into(),
            accelerator: Accelerator::Emulation,
            chassis: Chassis::Microvm,
            vcpus: 1,
            memory_mib: 128,
            kernel: Kernel { path: "/k".into(), cmdline: vec!["quiet".into()], initramfs: None },
            console: true,
            devices: vec![Device::Share { tag: "share".into(), path: "/s".into(), readonly: false }],
        }
    }

    #[test]
    fn survives_json() {
        let text = serde_json::to_string(&spec()).unwrap();
        assert_eq!(serde_json::from_str::<MachineSpec>(&text).unwrap(), spec());
    }

    fn net(first: u8, queues: u32) -> Device {
        Device::Net { name: "net0".into(), mac: [first, 0, 0, 0, 0, 1], queues }
    }

    #[test]
    fn one_pair_of_queues_is_written_as_before_there_were_several() {
        let text = |queues| serde_json::to_string(&net(2, queues)).unwrap();
        assert_eq!(text(1), r#"{"net":{"name":"net0","mac":[2,0,0,0,0,1]}}"#);
        assert_eq!(text(2), r#"{"net":{"name":"net0","mac":[2,0,0,0,0,1],"queues":2}}"#);
        for queues in [1, 2] {
            assert_eq!(serde_json::from_str::<Device>(&text(queues)).unwrap(), net(2, queues));
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = serde_json::to_string(&spec()).unwrap().replacen('{', "{\"bios\":1,", 1);
        assert!(serde_json::from_str::<MachineSpec>(&text).unwrap_err().to_string().contains("bios"));
    }

    #[test]
    fn impossible_machines_are_refused() {
        assert_eq!(spec().validate(), Ok(()));
        let with = |change: fn(&mut MachineSpec)| {
            let mut s = spec();
            change(&mut s);
            s.validate().unwrap_err()
        };
        assert_eq!(with(|s| s.version = 9), SpecError::Version(9));
        assert_eq!(with(|s| s.chassis = Chassis::Clear), SpecError::ClearWithoutKvm);
        assert_eq!(with(|s| s.vcpus = 0), SpecError::Vcpus(0));
        assert_eq!(with(|s| s.memory_mib = 1), SpecError::Memory(1));
        assert_eq!(with(|s| s.kernel.cmdline = vec!["a".repeat(3000)]), SpecError::Cmdline(3000));
        assert_eq!(with(|s| s.kernel.cmdline.push("a\nb".into())), SpecError::Parameter("a\nb".into()));
        assert_eq!(with(|s| s.devices.push(s.devices[0].clone())), SpecError::DuplicateName("share".into()));
        let comma = |s: &mut MachineSpec| {
            s.devices = vec![Device::AgentChannel { port: "a,b".into() }];
        };
        assert_eq!(with(comma), SpecError::DeviceName("a,b".into()));
        let group = |s: &mut MachineSpec| s.devices = vec![net(1, 1)];
        assert_eq!(with(group), SpecError::Mac("net0".into()));
        assert_eq!(with(|s| s.devices = vec![net(2, 0)]), SpecError::Queues("net0".into(), 0));
        assert_eq!(with(|s| s.devices = vec![net(2, 9)]), SpecError::Queues("net0".into(), 9));
        let many = |s: &mut MachineSpec| {
            let disk =
                |n| Device::Block { serial: format!("disk{n}"), path: "/dev/d".into(), readonly: false };
            s.devices = (0..9).map(disk).collect();
        };
        assert_eq!(with(many), SpecError::TooMany(9));
        let pmem = |s: &mut MachineSpec| s.devices = vec![Device::Pmem { path: "/p".into(), size: 2 << 20 }];
        assert_eq!(with(pmem), SpecError::PmemOnMicrovm);
    }

    #[test]
    fn functions_of_the_host_have_an_address_and_a_place_of_their_own() {
        let with = |chassis, functions: &[(&str, u8)]| {
            let function = |(host, slot): &(&str, u8)| Device::Vfio { host: host.to_string(), slot: *slot };
            MachineSpec { chassis, devices: functions.iter().map(function).collect(), ..spec() }.validate()
        };
        let q35 = Chassis::Q35;
        assert_eq!(with(q35, &[("0000:01:10.0", 0x10), ("0000:01:10.2", 0x1e)]), Ok(()));
        assert_eq!(with(Chassis::Microvm, &[("0000:01:10.0", 0x10)]), Err(SpecError::VfioOnMicrovm));
        for slot in [0, 0x0f, 0x1f] {
            assert_eq!(with(q35, &[("0000:01:10.0", slot)]), Err(SpecError::VfioSlot(slot)));
        }
        let twice = [("0000:01:10.0", 0x10), ("0000:01:10.2", 0x10)];
        assert_eq!(with(q35, &twice), Err(SpecError::VfioSlot(0x10)));
        for bad in
            ["", "01:10.0", "0000:01:10.0,x-no-mmap=on", "0000:01:10/0", "0000:01:1g.0", "0000:01:10.0 "]
        {
            assert_eq!(with(q35, &[(bad, 0x10)]), Err(SpecError::PciAddress(bad.into())), "{bad}");
        }
    }
}
