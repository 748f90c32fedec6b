//! `clear-vmm run`: from options, or a spec, to a machine.

use crate::cli::console::{self, Choice};
use crate::cli::options::{DiskOption, NetOption, PmemOption, ShareOption, parse_mib};
use crate::cli::spec;
use crate::control::socket::{self, BoundPath, Socket};
use crate::event_loop::signals;
use crate::jail::{Jail, Needs, Violation};
use crate::machine::devices::OpenDevice;
use crate::machine::files::{self, Donated, GUEST_CID};
use crate::machine::hotplug::slots::SlotCounts;
use crate::machine::{Machine, Options};
use crate::memory::ram::RamOptions;
use crate::vcpu::exit::ExitReason;
use machine_spec::{Accelerator, Chassis, Device, Kernel, MachineSpec, VERSION, VFIO_SLOTS};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Shown below `run --help`.
const EXAMPLES: &str = "\
Examples:
  A kernel and an initramfs, with a console; Ctrl-A x ends the machine:
    clear-vmm run --kernel vmlinux --initramfs root.cpio --console stdio --cmdline 'console=ttyS0'
  A root file system on a disk, two CPUs, a network:
    clear-vmm run --kernel vmlinux --cpus 2 --memory 1G --disk root.img --net tap=tap0 --cmdline 'root=/dev/vda'
  An EROFS image that all machines share in the host's page cache:
    clear-vmm run --kernel vmlinux --pmem root.erofs,ro --cmdline 'root=/dev/pmem0 rootflags=dax=always ro'

The machine puts these kernel parameters in front of yours, unless you give one of the same name:
  pci=conf1,noearly reboot=k,panic_warm panic=-1 noreplace-smp
and acpi=off before those of an ELF kernel: one without CONFIG_X86_MPPARSE needs acpi=force.";

/// Options of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Kernel: an uncompressed ELF file (vmlinux, fastest) or a bzImage
    #[arg(long, value_name = "FILE", required_unless_present = "spec")]
    kernel: Option<PathBuf>,
    /// Initial RAM file system (cpio, compressed as the kernel likes)
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Kernel parameters
    #[arg(long, value_name = "PARAMETERS", default_value = "", hide_default_value = true)]
    cmdline: String,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// RAM, for example 256M or 2G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_mib)]
    memory: u64,
    /// Most RAM that `clear-vmm ctl memory` may give the guest (virtio-mem): --memory and a multiple of 128M. It costs nothing until the
    /// guest uses it
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    memory_max: Option<u64>,
    /// Serial console (ttyS0): stdio, none, a file or terminal, or fd:N. Give the guest console=ttyS0 too. On a terminal
    /// Ctrl-A x ends the machine
    #[arg(long, value_name = "WHERE", default_value = "none")]
    console: Choice,
    /// Virtio console (/dev/hvc0), which is there later than the serial one and costs no exit per byte: a terminal or FIFO, a file
    /// that takes what the guest writes, or a donated socket or terminal
    #[arg(long, value_name = "PATH|fd:N")]
    hvc: Option<spec::Source>,
    /// Image mapped into the guest (/dev/pmem0...): shared and writable; `ro`: nobody writes; `cow`: writes are the guest's
    /// own and end with it. Its size is a multiple of 2 MiB
    #[arg(long, value_name = "FILE[,ro|cow]")]
    pmem: Vec<PmemOption>,
    /// Disk (/dev/vda...): raw file or block device; `bps`, `iops`: how many bytes and requests it serves a second
    #[arg(long, value_name = "FILE[,ro][,bps=SIZE][,iops=N]")]
    disk: Vec<DiskOption>,
    /// Directory of the host (virtio-fs): `mount -t virtiofs TAG DIR` in the guest. `ro`: the guest changes nothing, whatever it
    /// does; `dax`: files can be mapped from the host's page cache, as much as SIZE at a time
    #[arg(long, value_name = "DIR,tag=TAG[,ro][,dax=SIZE]")]
    share: Vec<ShareOption>,
    /// Network interface on a tap of the host; `queues`: pairs of queues, 1 to 8, so that as many CPUs of the guest send and receive at once;
    /// `rx-` to the guest, `tx-` from it: bytes and packets a second
    #[arg(
        long,
        value_name = "tap=NAME[,mac=ADDRESS][,queues=N][,rx-bps=SIZE][,tx-bps=SIZE][,rx-pps=N][,tx-pps=N]"
    )]
    net: Vec<NetOption>,
    /// PCI function of the host, such as 0000:01:10.0, that the guest drives itself; it is bound to vfio-pci. All of the guest's memory is
    /// pinned then
    #[arg(long, value_name = "ADDRESS")]
    vfio: Vec<String>,
    /// Sockets between host and guest (vsock): a program of the host connects to PATH and says `CONNECT PORT`; the guest's
    /// connection to port P of the host leads to PATH_P
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,
    /// The guest's address for --vsock
    #[arg(long, value_name = "CID", default_value_t = GUEST_CID, value_parser = clap::value_parser!(u64).range(GUEST_CID..u64::from(u32::MAX)))]
    cid: u64,
    /// Entropy from the host (/dev/hwrng)
    #[arg(long)]
    rng: bool,
    /// Give memory that the guest frees back to the host
    #[arg(long)]
    balloon: bool,
    /// Let KSM merge equal pages with other machines: saves memory, but machines that share can find out each other's pages
    #[arg(long)]
    mergeable: bool,
    /// Ask the host for huge pages: fewer faults, more memory
    #[arg(long)]
    hugepages: bool,
    /// Touch all RAM before the start
    #[arg(long)]
    prefault: bool,
    /// The machine as JSON (what the container runtime uses) from a file or descriptor, in place of the options above
    #[arg(long, value_name = "FILE|fd:N", conflicts_with_all = ["kernel", "initramfs", "cmdline", "cpus", "memory", "memory_max", "pmem", "disk", "share", "net", "vfio", "vsock"])]
    spec: Option<spec::Source>,
    /// Connected socket that the agent's vsock connection leads to
    #[arg(long, value_name = "fd:N", requires = "spec")]
    agent: Option<spec::Fd>,
    /// Tap of the spec's network device NAME, attached with vnet_hdr; a descriptor for each of its pairs of queues
    #[arg(long, value_name = "NAME=fd:N[:M...]", requires = "spec")]
    tap: Vec<spec::Tap>,
    /// Do without the jail: a guest that takes over this program then has all that its user has
    #[arg(long)]
    no_jail: bool,
    /// What a system call does that the jail forbids
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Violation::Kill, conflicts_with = "no_jail")]
    seccomp: Violation,
    /// Socket for `clear-vmm ctl` (pause, hotplug, statistics): made at PATH, for this user alone, and removed at the end; or a
    /// UNIX stream or seqpacket socket that is listening or connected
    #[arg(long, value_name = "PATH|fd:N")]
    control: Option<spec::Source>,
    /// Devices that may be added while the machine is in its jail, by `clear-vmm ctl add-...`: disk, pmem, share, share-ro, net, each
    /// as often as N (1) says at a time. Their threads are started now, each with the filter of its kind. Without the jail
    /// any device may be added
    #[arg(long, value_name = "KIND[=N],...", requires = "control")]
    hotplug: Option<SlotCounts>,
    /// Print the guest's boot stamps (bytes written to port 0x5C0) and their times at the end
    #[arg(long)]
    stamps: bool,
    /// Count what makes the virtual CPUs exit to this program, and print the most frequent at the end
    #[arg(long)]
    count_exits: bool,
}

/// Runs the machine; the exit code says how it ended.
pub fn run(args: Args, start: Instant) -> anyhow::Result<ExitCode> {
    let spec = match &args.spec {
        Some(source) => spec::read(source)?,
        None => spec(&args),
    };
    spec.validate()?;
    raise_descriptor_limit();
    let agent = args.agent.as_ref().map(spec::Fd::take).transpose()?;
    let taps = args.tap.iter().map(spec::Tap::take).collect::<Result<_, _>>()?;
    let (console, terminal) = console::open(&args.console)?;
    let mut bound = Vec::new();
    let control = args.control.as_ref().map(|source| control(source, &mut bound)).transpose()?;
    let ram = RamOptions { mergeable: args.mergeable, hugepages: args.hugepages, prefault: args.prefault };
    let mut devices = devices(&args, ram, &mut bound)?;
    if let Some(source) = &args.hvc {
        devices.push(console::open_hvc(source)?);
    }
    let donated = Donated { console, agent, taps, devices, signals: signals::block()?, control };
    let mut files = files::open(&spec, donated)?;
    if !files.functions.all.is_empty() {
        raise_lock_limit(&spec, &files.devices);
    }
    let jail = jail(&args, &mut files, &mut bound)?;
    let slots = args.hotplug.clone().unwrap_or_default();
    let options = Options { ram, slots, count_exits: args.count_exits, start };
    let machine = Machine::build(&spec, files, options, jail)?;
    let (stamps, counts) = (machine.stamps(), machine.exit_counts());
    let reason = machine.run()?;
    drop((terminal, bound));
    if args.stamps {
        for (step, time) in stamps.list() {
            eprintln!("clear-vmm: stamp {step}: {:.3} ms", time.as_secs_f64() * 1e3);
        }
    }
    if let Some(counts) = counts {
        eprintln!("clear-vmm: {}", counts.report());
    }
    report(&reason);
    Ok((&reason).into())
}

/// Enters the jail, unless told not to.
fn jail(args: &Args, files: &mut files::Files, bound: &mut [BoundPath]) -> anyhow::Result<Jail> {
    if args.no_jail {
        eprintln!("clear-vmm: warning: --no-jail: a guest that breaks out has all that this user has");
        return Ok(Jail::none());
    }
    warn_of_log(args.seccomp);
    let mut names: Vec<_> = bound.iter_mut().map(BoundPath::directory).collect();
    let needs = Needs {
        control: files.control.is_some(),
        slots: args.hotplug.clone().unwrap_or_default(),
        vfio: !files.functions.all.is_empty(),
        violation: args.seccomp,
    };
    Ok(Jail::enter(&mut files.devices, &mut names, &needs)?)
}

/// Says that the filters do not protect.
pub fn warn_of_log(violation: Violation) {
    if violation == Violation::Log {
        eprintln!("clear-vmm: warning: --seccomp=log: forbidden system calls are done, and only logged");
    }
}

/// A share keeps a descriptor for each file that the guest knows of. The soft limit is for programs that use select(2).
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where this is refused, the share forgets unused files earlier.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The control socket; its name, if it has one, goes to `bound`.
fn control(source: &spec::Source, bound: &mut Vec<BoundPath>) -> anyhow::Result<Socket> {
    Ok(match source {
        spec::Source::Fd(fd) => Socket::donated(fd.take()?)?,
        spec::Source::Path(path) => {
            let (socket, name) = socket::bind(path)?;
            bound.push(name);
            Socket::Listening(socket)
        }
    })
}

fn report(reason: &ExitReason) {
    if let Some(message) = reason.message() {
        eprintln!("clear-vmm: {message}");
    }
}

fn spec(args: &Args) -> MachineSpec {
    MachineSpec {
        version: VERSION,
        name: "clear-vmm".to_string(),
        accelerator: Accelerator::Kvm,
        chassis: Chassis::Clear,
        vcpus: args.cpus,
        memory_mib: args.memory,
        kernel: Kernel {
            path: args.kernel.clone().unwrap_or_default(),
            cmdline: args.cmdline.split_ascii_whitespace().map(String::from).collect(),
            initramfs: args.initramfs.clone(),
        },
        console: args.console != Choice::None,
        devices: functions(&args.vfio),
    }
}

/// Functions of the host, each at a place of its own; more than there are places have the last, which is refused.
fn functions(addresses: &[String]) -> Vec<Device> {
    let places = VFIO_SLOTS.chain(std::iter::repeat(*VFIO_SLOTS.end()));
    let device = |(host, slot): (&String, u8)| Device::Vfio { host: host.clone(), slot };
    addresses.iter().zip(places).map(device).collect()
}

/// Lets this process lock what functions of the host may reach: all of the guest's memory. In the jail it has no capability for that.
fn raise_lock_limit(spec: &MachineSpec, devices: &[OpenDevice]) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let images = devices.iter().map(|device| match device {
        OpenDevice::Pmem { size, .. } => *size,
        _ => 0,
    });
    let needed = (spec.memory_mib << 20).saturating_add(images.sum());
    let Rlimit { current, maximum } = getrlimit(Resource::Memlock);
    let more = |limit: Option<u64>| limit.map(|limit| limit.max(needed));
    if current.is_some_and(|current| current < needed) {
        // Where this is refused, pinning says so.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: more(current), maximum: more(maximum) });
    }
}

/// What the options ask for and a spec cannot say, opened; names of sockets go to `bound`.
fn devices(
    args: &Args,
    ram: RamOptions,
    bound: &mut Vec<BoundPath>,
) -> Result<Vec<OpenDevice>, files::FileError> {
    let mut devices = Vec::new();
    // Before the balloon, which may give back what comes with it.
    if let Some(max) = args.memory_max {
        devices.push(files::memory(args.memory, max, ram)?);
    }
    for pmem in &args.pmem {
        devices.push(files::pmem(&pmem.path, None, pmem.sharing)?);
    }
    for (index, disk) in args.disk.iter().enumerate() {
        devices.push(files::disk(&disk.path, &format!("disk{index}"), disk.readonly, disk.limits)?);
    }
    for share in &args.share {
        devices.push(files::share(&share.path, &share.tag, share.readonly, share.dax_mib << 20)?);
    }
    for net in &args.net {
        devices.push(files::net(&net.tap, net.mac, net.queues, net.rx, net.tx)?);
    }
    if let Some(path) = &args.vsock {
        let (device, name) = files::vsock(path, args.cid)?;
        devices.push(device);
        bound.push(name);
    }
    if args.rng {
        devices.push(OpenDevice::Rng);
    }
    if args.balloon {
        devices.push(OpenDevice::Balloon);
    }
    Ok(devices)
}
