//! A [`MachineSpec`] as QEMU's command line. Pure.

use crate::process::numbers;
use machine_spec::{Accelerator, Chassis, Device, MachineSpec};
use std::path::Path;

/// What the line says besides the spec: the numbers that the donated file descriptors have in QEMU, and what files are.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// Agent channel.
    pub link: i32,
    /// QMP monitor.
    pub monitor: i32,
    /// Guest console.
    pub console: i32,
    /// Taps by the names of their devices, a descriptor for each pair of queues.
    pub taps: &'a [(&'a str, Vec<i32>)],
    /// Those paths of disks that are block devices of the host, for which QEMU has another driver.
    pub host_devices: &'a [&'a Path],
}

/// The arguments after the program's name.
pub fn args(spec: &MachineSpec, given: Given<'_>) -> Vec<String> {
    let mut args = Args(Vec::new());
    args.add("-name", format!("{},process=clear-qemu", escape(&spec.name)));
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    // A guest that panics or powers off asks for a reset: the machine ends.
    args.flag("-no-reboot");
    args.add("-display", "none");
    args.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    args.add("-machine", board(spec));
    match spec.accelerator {
        Accelerator::Kvm => {
            args.add("-accel", "kvm");
            args.add("-cpu", "host,migratable=off");
        }
        Accelerator::Emulation => {
            args.add("-accel", "tcg,tb-size=128");
            args.add("-cpu", "max");
        }
    }
    args.add("-smp", spec.vcpus.to_string());
    args.add("-m", memory(spec));
    args.add("-kernel", spec.kernel.path.display().to_string());
    if let Some(initramfs) = &spec.kernel.initramfs {
        args.add("-initrd", initramfs.display().to_string());
    }
    args.add("-append", spec.cmdline());
    args.add("-chardev", format!("socket,id=monitor,fd={}", given.monitor));
    args.add("-mon", "chardev=monitor,mode=control");
    if spec.console {
        args.add("-chardev", format!("socket,id=console,fd={}", given.console));
        args.add("-serial", "chardev:console");
    }
    // Those with a place of their own first, lest another device takes it.
    let (placed, others): (Vec<_>, Vec<_>) =
        spec.devices.iter().enumerate().partition(|(_, device)| matches!(device, Device::Vfio { .. }));
    for (index, device) in placed.into_iter().chain(others) {
        args.device(spec.chassis, index, device, given);
    }
    args.0
}

/// The board and what is left out of it.
fn board(spec: &MachineSpec) -> String {
    let console = if spec.console { "on" } else { "off" };
    match spec.chassis {
        Chassis::Microvm => {
            // Without KVM there is no kvm-clock: the guest calibrates its TSC against the PIT and hangs without it, and asks the
            // RTC for the time, for whose answer it waits one second when there is none (mach_get_cmos_time, rtc.c).
            let clocks = if spec.accelerator == Accelerator::Emulation { "on" } else { "off" };
            format!(
                "microvm,acpi=off,rtc={clocks},pit={clocks},pic={clocks},isa-serial={console},auto-kernel-cmdline=on"
            )
        }
        // Refused before it comes here; its devices are PCI's too.
        Chassis::Clear | Chassis::Q35 => "q35,usb=off,sata=off,smbus=off,vmport=off,hpet=off".to_string(),
    }
}

/// RAM, and address space behind it for pmem devices in steps of a GiB, which is how QEMU aligns them.
fn memory(spec: &MachineSpec) -> String {
    let pmem = spec.devices.iter().filter_map(|device| match device {
        Device::Pmem { size, .. } => Some(size.div_ceil(1 << 30) << 10),
        _ => None,
    });
    match pmem.sum::<u64>() {
        0 => format!("{}M", spec.memory_mib),
        behind => format!("{}M,maxmem={}M", spec.memory_mib, spec.memory_mib + behind),
    }
}

struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_string());
    }

    fn add(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.to_string());
        self.0.push(value.into());
    }

    fn device(&mut self, chassis: Chassis, index: usize, device: &Device, given: Given<'_>) {
        let bus = if chassis == Chassis::Microvm { "device" } else { "pci" };
        match device {
            Device::AgentChannel { port } => {
                self.add("-device", format!("virtio-serial-{bus},max_ports=2"));
                self.add("-chardev", format!("socket,id=link,fd={}", given.link));
                self.add("-device", format!("virtserialport,chardev=link,name={}", escape(port)));
            }
            // Refused before it comes here.
            Device::Vsock { .. } => {}
            Device::Block { serial, path, readonly } => {
                let ro = if *readonly { ",read-only=on" } else { "" };
                let driver =
                    if given.host_devices.contains(&path.as_path()) { "host_device" } else { "file" };
                let path = escape(&path.display().to_string());
                // Images are shared by machines, and who writes a device at the same time is up to the user, as with containers.
                self.add("-blockdev", format!("driver=raw,node-name=disk{index}{ro},file.driver={driver},file.filename={path},file.locking=off"));
                self.add("-device", format!("virtio-blk-{bus},drive=disk{index},serial={}", escape(serial)));
            }
            Device::Pmem { path, size } => {
                let path = escape(&path.display().to_string());
                self.add(
                    "-object",
                    format!(
                        "memory-backend-file,id=pmem{index},mem-path={path},size={size},share=on,readonly=on"
                    ),
                );
                self.add("-device", format!("virtio-pmem-pci,memdev=pmem{index}"));
            }
            Device::Share { tag, path, readonly } => {
                let ro = if *readonly { ",readonly=on" } else { "" };
                let path = escape(&path.display().to_string());
                self.add(
                    "-fsdev",
                    format!(
                        "local,id=share{index},path={path},security_model=passthrough,multidevs=remap{ro}"
                    ),
                );
                self.add("-device", format!("virtio-9p-{bus},fsdev=share{index},mount_tag={}", escape(tag)));
            }
            // No boot code: nothing boots from it.
            Device::Vfio { host, slot } => {
                self.add("-device", format!("vfio-pci,host={host},bus=pcie.0,addr={slot:#x},rombar=0"));
            }
            Device::Net { name, mac, .. } => {
                // One without a tap is refused before it comes here.
                let Some((_, fds)) = given.taps.iter().find(|(tap, _)| tap == name) else { return };
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                // No boot code: nothing boots from the network.
                let rom = if chassis == Chassis::Microvm { "" } else { ",romfile=" };
                let (fds, several) = match fds.as_slice() {
                    [fd] => (format!("fd={fd}"), format!(",{NO_CONTROL_QUEUE}")),
                    // An interrupt for each queue, for the control queue and for the configuration; virtio-mmio has one for all.
                    fds if chassis == Chassis::Microvm => {
                        (format!("fds={}", numbers(fds)), ",mq=on".to_string())
                    }
                    fds => (format!("fds={}", numbers(fds)), format!(",mq=on,vectors={}", 2 * fds.len() + 2)),
                };
                self.add("-netdev", format!("tap,id=net{index},{fds},vhost=off"));
                self.add("-device", format!("virtio-net-{bus},netdev=net{index},mac={mac}{rom}{several}"));
            }
        }
    }
}

/// A single pair of queues needs no commands from the guest, which spins until each one is answered: filters of addresses and VLANs are of
/// no use behind a tap that is the guest's alone. Linux takes no device that has one of these without the queue.
const NO_CONTROL_QUEUE: &str =
    "ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,guest_announce=off";

/// A comma ends a value in QEMU's option syntax unless doubled.
fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine_spec::{Kernel, VERSION};

    fn spec(accelerator: Accelerator, chassis: Chassis) -> MachineSpec {
        MachineSpec {
            version: VERSION,
            name: "web".into(),
            accelerator,
            chassis,
            vcpus: 2,
            memory_mib: 256,
            kernel: Kernel {
                path: "/k/vmlinux".into(),
                cmdline: vec!["quiet".into(), "panic=-1".into()],
                initramfs: None,
            },
            console: true,
            devices: vec![
                Device::Block { serial: "mini-os".into(), path: "/k/a,b.erofs".into(), readonly: true },
                Device::AgentChannel { port: "clear.agent".into() },
                Device::Share { tag: "share".into(), path: "/run/cor/web/share".into(), readonly: false },
            ],
        }
    }

    const GIVEN: Given<'_> = Given { link: 10, monitor: 11, console: 12, taps: &[], host_devices: &[] };

    #[test]
    fn emulated_microvm_has_clocks_and_mmio_devices() {
        let line = args(&spec(Accelerator::Emulation, Chassis::Microvm), GIVEN).join(" ");
        assert!(line.contains("-machine microvm,acpi=off,rtc=on,pit=on,pic=on,isa-serial=on"), "{line}");
        assert!(line.contains("-device virtio-9p-device,fsdev=share2,mount_tag=share"), "{line}");
        assert!(line.contains("-append quiet panic=-1"), "{line}");
        assert!(line.contains("socket,id=link,fd=10"), "{line}");
        assert!(line.contains("file.filename=/k/a,,b.erofs,"), "commas must not end a value: {line}");
    }

    #[test]
    fn a_network_device_is_on_its_tap() {
        let line = |chassis, fds: &[i32]| {
            let mut spec = spec(Accelerator::Emulation, chassis);
            let queues = fds.len() as u32;
            spec.devices = vec![Device::Net { name: "net0".into(), mac: [2, 0, 0, 0xab, 0, 1], queues }];
            let taps = [("net0", fds.to_vec())];
            let line = args(&spec, Given { taps: &taps, ..GIVEN }).join(" ");
            line[line.find("-netdev").unwrap()..].to_string()
        };
        assert_eq!(
            line(Chassis::Microvm, &[13]),
            format!(
                "-netdev tap,id=net0,fd=13,vhost=off -device virtio-net-device,netdev=net0,mac=02:00:00:ab:00:01,{NO_CONTROL_QUEUE}"
            )
        );
        assert_eq!(
            line(Chassis::Q35, &[13]),
            format!(
                "-netdev tap,id=net0,fd=13,vhost=off -device virtio-net-pci,netdev=net0,mac=02:00:00:ab:00:01,romfile=,{NO_CONTROL_QUEUE}"
            )
        );
        assert_eq!(
            line(Chassis::Microvm, &[13, 14]),
            "-netdev tap,id=net0,fds=13:14,vhost=off -device virtio-net-device,netdev=net0,mac=02:00:00:ab:00:01,mq=on"
        );
        assert_eq!(
            line(Chassis::Q35, &[13, 14, 20]),
            "-netdev tap,id=net0,fds=13:14:20,vhost=off -device virtio-net-pci,netdev=net0,mac=02:00:00:ab:00:01,romfile=,mq=on,vectors=8"
        );
    }

    #[test]
    fn functions_of_the_host_come_first_and_have_their_places() {
        let mut spec = spec(Accelerator::Kvm, Chassis::Q35);
        spec.devices.push(Device::Vfio { host: "0000:01:10.2".into(), slot: 0x11 });
        let line = args(&spec, GIVEN).join(" ");
        assert!(line.contains("-device vfio-pci,host=0000:01:10.2,bus=pcie.0,addr=0x11,rombar=0"), "{line}");
        assert!(line.find("vfio-pci") < line.find("virtio-serial-pci"), "{line}");
    }

    #[test]
    fn a_block_device_of_the_host_is_no_file() {
        let mut spec = spec(Accelerator::Emulation, Chassis::Microvm);
        let device = |readonly| Device::Block { serial: "disk0".into(), path: "/dev/loop3".into(), readonly };
        spec.devices.extend([device(false)]);
        let given = Given { host_devices: &[Path::new("/dev/loop3")], ..GIVEN };
        let line = args(&spec, given).join(" ");
        assert!(line.contains("disk0,read-only=on,file.driver=file,file.filename=/k/a,,b.erofs,"), "{line}");
        assert!(line.contains("node-name=disk3,file.driver=host_device,file.filename=/dev/loop3,"), "{line}");
        assert!(line.contains("-device virtio-blk-device,drive=disk3,serial=disk0"), "{line}");
        spec.devices[3] = device(true);
        let line = args(&spec, given).join(" ");
        assert!(line.contains("node-name=disk3,read-only=on,file.driver=host_device,"), "{line}");
    }

    #[test]
    fn kvm_microvm_has_no_legacy_clocks() {
        let line = args(&spec(Accelerator::Kvm, Chassis::Microvm), GIVEN).join(" ");
        assert!(line.contains("rtc=off,pit=off,pic=off"), "{line}");
        assert!(line.contains("-accel kvm -cpu host"), "{line}");
    }

    #[test]
    fn q35_carries_pmem_on_pci() {
        let mut spec = spec(Accelerator::Kvm, Chassis::Q35);
        spec.console = false;
        spec.devices[0] = Device::Pmem { path: "/k/image.erofs".into(), size: 4 << 20 };
        let line = args(&spec, GIVEN).join(" ");
        assert!(line.contains("-device virtio-pmem-pci,memdev=pmem0"), "{line}");
        assert!(line.contains("-m 256M,maxmem=1280M"), "{line}");
        assert!(line.contains("-device virtio-serial-pci"), "{line}");
        assert!(!line.contains("-serial chardev:"), "no UART when no console is wanted: {line}");
    }
}
