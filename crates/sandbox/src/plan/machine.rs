//! The machine: how it is executed, its board, what it boots, and its devices.
//!
//! ```text
//!   accelerator  configured, else KVM if it works, else emulation with a warning
//!   backend      configured, else clear-vmm if KVM works and the kernel has its devices, else QEMU
//!   board        clear-vmm's; of QEMU: microvm if the kernel finds virtio-mmio devices by its command line, else q35
//!   root         pmem (all but microvm, kernel with DAX) ─ disk ─ initramfs
//! ```

use super::size::Size;
use super::{Inputs, Piece, PlanError, SHARE_TAG};
use crate::configuration::{AcceleratorChoice, Backend, ChassisChoice, RootChoice};
use host_check::facts::Kvm;
use machine_spec::mini_os::{File, MiniOs};
use machine_spec::{Accelerator, Chassis, Device, Kernel, MachineSpec, VERSION};
use std::path::PathBuf;

/// Serial of the disk with the mini-OS.
const ROOT_DISK: &str = "mini-os";

/// How many times longer a boot may take under emulation (seen: 5 to 10 times the CPU time, half of it waiting).
const EMULATION_TIMEOUT_FACTOR: u32 = 4;

/// Decides how guest instructions are executed, with the warning it deserves.
pub(super) fn accelerator(inputs: &Inputs, warnings: &mut Vec<String>) -> Result<Accelerator, PlanError> {
    let wish = inputs.configuration.machine.accelerator;
    let required = inputs.options.require_kvm || wish == AcceleratorChoice::Kvm;
    match (&inputs.facts.kvm, wish) {
        (_, AcceleratorChoice::Emulation) if inputs.options.require_kvm => Err(PlanError::host(
            "running with KVM",
            "emulation is configured",
            "remove --require-kvm, or set machine.accelerator to \"auto\"",
        )),
        (_, AcceleratorChoice::Emulation) => Ok(Accelerator::Emulation),
        (Kvm::Usable, _) => Ok(Accelerator::Kvm),
        (Kvm::Unusable(why), _) if required => Err(PlanError::host(
            "running with KVM",
            why,
            "`cor check` tells how to get it; machine.accelerator = \"auto\" runs without, slowly",
        )),
        (Kvm::Unusable(why), _) => {
            warnings
                .push(format!("KVM cannot be used ({why}): the machine is emulated, several times slower"));
            Ok(Accelerator::Emulation)
        }
    }
}

/// Which kind of program runs the machine: what is configured, or else clear-vmm where it can.
pub(super) fn backend(inputs: &Inputs) -> Backend {
    let wish = &inputs.configuration.machine;
    let kvm = inputs.facts.kvm == Kvm::Usable && wish.accelerator != AcceleratorChoice::Emulation;
    match wish.backend {
        Backend::Auto => {
            let ours = kvm && inputs.mini_os.features.clear && clear_vmm(inputs).is_some();
            let boards_of_qemu = wish.chassis != ChassisChoice::Auto;
            if ours && !boards_of_qemu { Backend::ClearVmm } else { Backend::Qemu }
        }
        chosen => chosen,
    }
}

fn clear_vmm<'a>(inputs: &'a Inputs) -> Option<&'a PathBuf> {
    let configured = &inputs.configuration.machine.clear_vmm;
    if configured.as_os_str().is_empty() { inputs.facts.clear_vmm.as_ref() } else { Some(configured) }
}

/// The program that runs the machine.
pub(super) fn program(inputs: &Inputs) -> Result<PathBuf, PlanError> {
    if backend(inputs) == Backend::ClearVmm {
        return clear_vmm(inputs).cloned().ok_or_else(|| {
            PlanError::host(
                "running a machine with clear-vmm",
                "it was found neither beside this program nor in PATH",
                "install it, or name it by machine.clear_vmm in the configuration",
            )
        });
    }
    let configured = &inputs.configuration.machine.qemu;
    match &inputs.facts.qemu {
        _ if !configured.as_os_str().is_empty() => Ok(configured.clone()),
        Some(found) => Ok(found.path.clone()),
        None => Err(PlanError::host(
            "running a machine",
            "no QEMU was found on this host",
            "install it (Debian: apt-get install qemu-system-x86), or name it by machine.qemu in the configuration",
        )),
    }
}

/// Seconds that the machine has until its agent calls.
pub(super) fn boot_timeout_s(inputs: &Inputs, accelerator: Accelerator) -> u32 {
    let factor = if accelerator == Accelerator::Emulation { EMULATION_TIMEOUT_FACTOR } else { 1 };
    inputs.configuration.machine.boot_timeout_s.saturating_mul(factor)
}

/// The machine with the devices that `piece` asked for.
pub(super) fn machine(
    inputs: &Inputs,
    size: &Size,
    accelerator: Accelerator,
    piece: &Piece,
) -> Result<MachineSpec, PlanError> {
    let mini_os = inputs.mini_os;
    if mini_os.arch != inputs.facts.arch {
        let why = format!("it is for {}, this host is {}", mini_os.arch, inputs.facts.arch);
        return Err(PlanError::host(
            format!("booting mini-OS {}", mini_os.origin),
            why,
            "build one with `clear-mini-os build`",
        ));
    }
    let chassis = chassis(inputs)?;
    let root = root(mini_os, chassis, inputs.configuration.machine.root)?;
    let console = inputs.configuration.machine.console;
    let vcpus = size.vcpus;
    let mut devices = vec![match chassis {
        Chassis::Clear => Device::Vsock { agent_port: guest_protocol::VSOCK_PORT },
        Chassis::Microvm | Chassis::Q35 => Device::AgentChannel { port: guest_protocol::CHANNEL_NAME.into() },
    }];
    devices.extend(root.device());
    devices.push(Device::Share {
        tag: SHARE_TAG.into(),
        path: inputs.options.stage.clone(),
        readonly: false,
    });
    devices.extend(piece.devices.iter().cloned());
    let mut cmdline = root.parameters();
    cmdline.extend(parameters(accelerator, chassis, vcpus, console).into_iter().map(String::from));
    cmdline.extend(clock(accelerator, inputs.facts.tsc_khz));
    if chassis == Chassis::Clear {
        cmdline.push(format!("{}={}", guest_protocol::VSOCK_PARAMETER, guest_protocol::VSOCK_PORT));
    }
    cmdline.extend(inputs.configuration.container.kernel_parameters.iter().cloned());
    let initramfs = match root {
        Root::Initramfs(file) => Some(file.path.clone()),
        Root::Disk(_) | Root::Pmem(_) => None,
    };
    let spec = MachineSpec {
        version: VERSION,
        name: inputs.id.to_string(),
        accelerator,
        chassis,
        vcpus,
        memory_mib: size.memory_mib,
        kernel: Kernel { path: mini_os.kernel.path.clone(), cmdline, initramfs },
        console,
        devices,
    };
    spec.validate()?;
    Ok(spec)
}

/// Which board the machine has.
pub(super) fn chassis(inputs: &Inputs) -> Result<Chassis, PlanError> {
    let microvm = inputs.mini_os.features.virtio_mmio;
    if backend(inputs) == Backend::ClearVmm {
        return clear_chassis(inputs);
    }
    match inputs.configuration.machine.chassis {
        ChassisChoice::Q35 => Ok(Chassis::Q35),
        ChassisChoice::Auto if microvm => Ok(Chassis::Microvm),
        ChassisChoice::Auto => Ok(Chassis::Q35),
        ChassisChoice::Microvm if microvm => Ok(Chassis::Microvm),
        ChassisChoice::Microvm => Err(PlanError::host(
            "a machine with chassis microvm",
            format!("kernel {} does not find virtio-mmio devices without modules", inputs.mini_os.release),
            "use chassis q35, or build the mini-OS with `clear-mini-os build --kernel source`",
        )),
    }
}

fn clear_chassis(inputs: &Inputs) -> Result<Chassis, PlanError> {
    let wish = &inputs.configuration.machine;
    let refused = |why: String, fix| Err(PlanError::host("a machine run by clear-vmm", why, fix));
    match &inputs.facts.kvm {
        _ if wish.accelerator == AcceleratorChoice::Emulation => refused(
            "it needs KVM, and emulation is configured".into(),
            "set machine.backend or machine.accelerator to \"auto\"",
        ),
        Kvm::Unusable(why) => {
            refused(format!("it needs KVM, and {why}"), "set machine.backend to \"auto\" or \"qemu\"")
        }
        Kvm::Usable if wish.chassis != ChassisChoice::Auto => refused(
            "it has no such chassis as is configured".into(),
            "set machine.chassis to \"auto\", or machine.backend to \"qemu\"",
        ),
        Kvm::Usable if !inputs.mini_os.features.clear => refused(
            format!("kernel {} has virtio-pci, vsock or virtio-fs not built in", inputs.mini_os.release),
            "build the mini-OS with `clear-mini-os build --kernel source`, or set machine.backend to \"qemu\"",
        ),
        Kvm::Usable => Ok(Chassis::Clear),
    }
}

/// What the guest's kernel mounts as its root.
#[derive(Clone, Copy)]
enum Root<'a> {
    Initramfs(&'a File),
    Disk(&'a File),
    Pmem(&'a File),
}

fn root(mini_os: &MiniOs, chassis: Chassis, choice: RootChoice) -> Result<Root<'_>, PlanError> {
    let features = mini_os.features;
    // One copy of the image in the host's page cache serves all machines.
    let pmem =
        mini_os.image.as_ref().filter(|_| features.dax_root && chassis != Chassis::Microvm).map(Root::Pmem);
    let disk = mini_os.image.as_ref().filter(|_| features.block_root).map(Root::Disk);
    let initramfs = mini_os.initramfs.as_ref().map(Root::Initramfs);
    let root = match choice {
        RootChoice::Auto => pmem.or(disk).or(initramfs),
        RootChoice::Pmem => pmem,
        RootChoice::Disk => disk,
        RootChoice::Initramfs => initramfs,
    };
    root.ok_or_else(|| {
        let booting = format!("booting mini-OS {}", mini_os.origin);
        let rebuild = "rebuild it with `clear-mini-os build`, or list mini_os.kernel_features";
        match choice {
            RootChoice::Auto => PlanError::host(
                booting,
                "it has no initramfs, and its kernel cannot mount its image without modules",
                rebuild,
            ),
            RootChoice::Pmem if chassis == Chassis::Microvm => PlanError::host(
                booting,
                "machine.root is \"pmem\", which chassis microvm has not",
                "set machine.chassis to \"q35\", or machine.root to \"auto\"",
            ),
            RootChoice::Pmem | RootChoice::Disk => PlanError::host(
                booting,
                "it has no image, or its kernel cannot mount it as machine.root says",
                "set machine.root to \"auto\", or list mini_os.kernel_features",
            ),
            RootChoice::Initramfs => {
                PlanError::host(booting, "it has no initramfs", "set machine.root to \"auto\", or rebuild it")
            }
        }
    })
}

impl Root<'_> {
    fn device(&self) -> Option<Device> {
        match self {
            Root::Initramfs(_) => None,
            Root::Disk(image) => {
                Some(Device::Block { serial: ROOT_DISK.into(), path: image.path.clone(), readonly: true })
            }
            Root::Pmem(image) => Some(Device::Pmem { path: image.path.clone(), size: image.size }),
        }
    }

    fn parameters(&self) -> Vec<String> {
        let erofs = |device: &str, options: Option<&str>| {
            let flags = options.map(|options| format!("rootflags={options}"));
            let all = [format!("root={device}"), "rootfstype=erofs".into(), "ro".into(), "init=/init".into()];
            all.into_iter().chain(flags).collect()
        };
        match self {
            Root::Initramfs(_) => Vec::new(),
            Root::Disk(_) => erofs("/dev/vda", None),
            Root::Pmem(_) => erofs("/dev/pmem0", Some("dax=always")),
        }
    }
}

/// Kernel parameters of every machine. Each must earn its place: on q35, `i8042.no*`, `8250.nr_uarts=1` and `pci=lastbus=0`
/// changed the number of instructions up to init by nothing that could be measured, so they are not here.
fn parameters(accelerator: Accelerator, chassis: Chassis, vcpus: u32, console: bool) -> Vec<&'static str> {
    let mut all = vec![
        "quiet",                    // each console byte is an exit to the VMM
        "panic=-1",                 // reboot at once: the VMM ends on it
        "random.trust_cpu=on", // the pool is ready when init starts; the host's entropy follows with the set-up
        "rcupdate.rcu_expedited=1", // no grace periods of milliseconds while booting
        "cryptomgr.notests",   // self tests of the crypto drivers
        "noreplace-smp", // with one vCPU, lock prefixes all over the text would be taken out: a copy of each of its pages
    ];
    if chassis != Chassis::Clear {
        all.push("reboot=t"); // by triple fault, the one way that QEMU's boards have in common; clear-vmm tells its own way
    }
    if console {
        all.push("console=ttyS0");
    }
    // The check counts interrupts in a time that a loaded host may not give the machine, and panics if there are too few.
    all.push("no_timer_check");
    match accelerator {
        // The PIT is calibrated by nature; the local APIC's timer takes 0.2 s to be measured.
        Accelerator::Emulation if vcpus == 1 => all.push("nolapic_timer"),
        Accelerator::Kvm | Accelerator::Emulation => {}
    }
    all
}

/// The guest's clock is the time stamp counter. Under emulation that is the host's counter, so the host tells its frequency: `microvm` has
/// nothing to measure it with, and a guest without it counts timer interrupts, 250 a second even when it is idle, and loses time with
/// each that a loaded host does not deliver.
fn clock(accelerator: Accelerator, tsc_khz: Option<u32>) -> Vec<String> {
    let reliable = "tsc=reliable".to_owned();
    match (accelerator, tsc_khz) {
        (Accelerator::Kvm, _) => vec![reliable],
        (Accelerator::Emulation, Some(khz)) => vec![format!("tsc_early_khz={khz}"), reliable],
        (Accelerator::Emulation, None) => Vec::new(),
    }
}
