//! `clear-vmm ctl`: the client of a machine's control socket. It opens what a new device needs, and hands it over opened.

use crate::cli::options::{DiskOption, NetOption, PmemOption, ShareOption, parse_mib};
use crate::control::answers::{Added, MemorySize, State, Stats};
use crate::control::client::Client;
use crate::control::protocol::{Access, AddDisk, AddNet, AddPmem, AddShare, Memory, Remove, Request};
use crate::jail;
use crate::machine::devices::OpenDevice;
use crate::machine::files;
use crate::memory::window::Sharing;
use crate::virtio::block::request::ID_BYTES;
use clap::Subcommand;
use serde_json::Value;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Shown below `ctl --help`.
const EXAMPLES: &str = "\
Examples:
  A machine with a control socket, paused and resumed:
    clear-vmm run --kernel vmlinux --control /run/vm.sock ... &
    clear-vmm ctl --socket /run/vm.sock pause
    clear-vmm ctl --socket /run/vm.sock resume
  A disk for a running machine, which was started with --hotplug disk; the guest looks for it when it is told to:
    clear-vmm ctl --socket /run/vm.sock add-disk data.img --id data
    (guest) echo 1 > /sys/bus/pci/rescan
  And away again, first in the guest, at the place that add-disk and `state` tell:
    (guest) echo 1 > /sys/bus/pci/devices/0000:00:03.0/remove
    clear-vmm ctl --socket /run/vm.sock remove data
  More memory for a machine that was started with --memory 256M --memory-max 2304M, and less:
    clear-vmm ctl --socket /run/vm.sock memory 1G
    clear-vmm ctl --socket /run/vm.sock memory 256M
  What each device has done, for programs:
    clear-vmm ctl --socket /run/vm.sock --json stats";

/// Options of `ctl`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `run --control` was given
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether the machine runs or is paused, and list its devices
    State,
    /// Say what its devices and virtual CPUs have done, and how much of the host's memory it uses
    Stats,
    /// Stop all virtual CPUs and devices; returns when they stand still
    Pause,
    /// Let them go on
    Resume,
    /// End the machine at once, as if its power was cut; the guest is not asked
    Shutdown,
    /// Ask the guest to have so much memory in all, between the --memory and the --memory-max that it was started with. It takes
    /// its time, and cannot always give up what it uses; `state` shows what it has
    Memory {
        /// For example 512M or 2G
        #[arg(value_name = "SIZE", value_parser = parse_mib)]
        size: u64,
    },
    /// Add a disk: a raw file or block device; `bps`, `iops`: how many bytes and requests it serves a second
    AddDisk {
        /// The file
        #[arg(value_name = "FILE[,ro][,bps=SIZE][,iops=N]")]
        disk: DiskOption,
        /// Its name here, and its serial in the guest, at most 20 bytes [default: the file's name]
        #[arg(long)]
        id: Option<String>,
    },
    /// Add an image mapped into the guest; its size is a multiple of 2 MiB
    AddPmem {
        /// The image
        #[arg(value_name = "FILE[,ro|cow]")]
        pmem: PmemOption,
        /// Its name here [default: the file's name]
        #[arg(long)]
        id: Option<String>,
    },
    /// Add a directory of the host (virtio-fs); its name here is its tag
    AddShare {
        /// The directory
        #[arg(value_name = "DIR,tag=TAG[,ro][,dax=SIZE]")]
        share: ShareOption,
    },
    /// Add a network interface on a tap of the host; `queues`: pairs of queues, 1 to 8; `rx-` to the guest, `tx-` from it: bytes and packets
    /// a second
    AddNet {
        /// The tap
        #[arg(
            value_name = "tap=NAME[,mac=ADDRESS][,queues=N][,rx-bps=SIZE][,tx-bps=SIZE][,rx-pps=N][,tx-pps=N]"
        )]
        net: NetOption,
        /// Its name here [default: the tap's]
        #[arg(long)]
        id: Option<String>,
    },
    /// Take a disk, image, share or network away
    Remove {
        /// Its name, as `state` lists it
        id: String,
        /// Even if the guest still uses it: what is behind it goes at once, and the guest gets errors until it lets go of the device
        #[arg(long)]
        force: bool,
    },
}

/// Has it done.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (request, files) = request(&args.command)?;
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let answer = Client::connect(&args.socket)?.call(&request, &files)?;
    if args.json {
        println!("{answer}");
    } else {
        print(&request, answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The request, and what was opened for it.
fn request(command: &Command) -> anyhow::Result<(Request, Vec<OwnedFd>)> {
    let alone = |request| Ok((request, Vec::new()));
    match command {
        Command::State => alone(Request::State),
        Command::Stats => alone(Request::Stats),
        Command::Pause => alone(Request::Pause),
        Command::Resume => alone(Request::Resume),
        Command::Shutdown => alone(Request::Shutdown),
        Command::Memory { size } => alone(Request::Memory(Memory { size: size << 20 })),
        Command::Remove { id, force } => alone(Request::Remove(Remove { id: id.clone(), force: *force })),
        Command::AddDisk { disk, id } => {
            let id = id.clone().unwrap_or_else(|| file_name(&disk.path, ID_BYTES));
            let files = opened(files::disk(&disk.path, &id, disk.readonly, disk.limits)?);
            Ok((Request::AddDisk(AddDisk { id, readonly: disk.readonly, limits: disk.limits }), files))
        }
        Command::AddPmem { pmem, id } => {
            let access = match pmem.sharing {
                Sharing::Shared => Access::Shared,
                Sharing::ReadOnly => Access::Ro,
                Sharing::CopyOnWrite => Access::Cow,
            };
            let id = id.clone().unwrap_or_else(|| file_name(&pmem.path, usize::MAX));
            let files = opened(files::pmem(&pmem.path, None, pmem.sharing)?);
            Ok((Request::AddPmem(AddPmem { id, access }), files))
        }
        Command::AddShare { share } => {
            let (id, dax) = (share.tag.clone(), share.dax_mib << 20);
            let files = opened(files::share(&share.path, &share.tag, share.readonly, dax)?);
            // Without one, a machine in its jail says no, and what to do; another has no need of it.
            let own = |plain| jail::own_mount(&plain, share.readonly).unwrap_or(plain);
            let files = files.into_iter().map(own).collect();
            Ok((Request::AddShare(AddShare { id, readonly: share.readonly, dax }), files))
        }
        Command::AddNet { net, id } => {
            let files = opened(files::net(&net.tap, net.mac, net.queues, net.rx, net.tx)?);
            let id = id.clone().unwrap_or_else(|| net.tap.clone());
            let NetOption { mac, queues, rx, tx, .. } = *net;
            Ok((Request::AddNet(AddNet { id, mac, queues, rx, tx }), files))
        }
    }
}

/// The descriptors that go over.
fn opened(device: OpenDevice) -> Vec<OwnedFd> {
    match device {
        OpenDevice::Block { file, .. } | OpenDevice::Pmem { file, .. } => vec![file.into()],
        OpenDevice::Net { taps, .. } => taps.into_iter().map(OwnedFd::from).collect(),
        OpenDevice::Share { root, .. } => vec![root],
        _ => Vec::new(),
    }
}

fn file_name(path: &Path, most: usize) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut end = name.len().min(most);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_string()
}

fn print(request: &Request, answer: Value) -> anyhow::Result<()> {
    match request {
        Request::State => print_state(&serde_json::from_value(answer)?),
        Request::Stats => print_stats(&serde_json::from_value(answer)?),
        Request::AddDisk(_) | Request::AddPmem(_) | Request::AddShare(_) | Request::AddNet(_) => {
            let Added { id, pci } = serde_json::from_value(answer)?;
            println!("{id} is at {pci}; the guest finds it by `echo 1 > /sys/bus/pci/rescan`");
        }
        Request::Memory(_) => println!("{}", memory_line(&serde_json::from_value(answer)?)),
        Request::Pause | Request::Resume | Request::Shutdown | Request::Remove(_) => {}
    }
    Ok(())
}

fn memory_line(size: &MemorySize) -> String {
    let MemorySize { now, wanted, max } = size;
    format!("memory: {} MiB now, {} MiB wanted, {} MiB at most", now >> 20, wanted >> 20, max >> 20)
}

fn print_state(state: &State) {
    println!("{}, pid {}, {} CPUs, {} MiB", state.state, state.pid, state.vcpus, state.memory >> 20);
    if let Some(size) = &state.memory_size {
        println!("{}", memory_line(size));
    }
    println!("{:24} {:8} {:12} IN USE", "DEVICE", "KIND", "PCI");
    for device in &state.devices {
        let active = match (device.active, device.leaving) {
            (_, true) => "leaving",
            (true, _) => "yes",
            (false, _) => "no",
        };
        println!("{:24} {:8} {:12} {active}", device.id, device.kind, device.pci);
    }
    if let Some(slots) = state.slots.as_ref().filter(|slots| !slots.is_empty()) {
        let slots: Vec<_> = slots.iter().map(|(kind, free)| format!("{kind}={free}")).collect();
        println!("room for {}", slots.join(", "));
    }
}

fn print_stats(stats: &Stats) {
    let kib = |bytes: u64| bytes >> 10;
    let memory = &stats.memory;
    println!(
        "memory  {} KiB resident: {} KiB private, {} KiB shared with others; {} KiB in swap",
        kib(memory.rss),
        kib(memory.private),
        kib(memory.shared),
        kib(memory.swap)
    );
    if let Some(balloon) = &stats.balloon {
        println!(
            "balloon {} KiB taken now, {} KiB given back so far",
            kib(balloon.taken),
            kib(balloon.freed)
        );
    }
    for (index, exits) in stats.vcpu_exits.iter().enumerate() {
        println!("vcpu{index}   {exits} exits");
    }
    println!(
        "{:24} {:>10} {:>14} {:>14} {:>8} {:>9}",
        "DEVICE", "REQUESTS", "TO GUEST", "FROM GUEST", "ERRORS", "THROTTLED"
    );
    for device in &stats.devices {
        println!(
            "{:24} {:>10} {:>14} {:>14} {:>8} {:>9}",
            device.id,
            device.requests,
            device.bytes_to_guest,
            device.bytes_from_guest,
            device.errors,
            device.throttled
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_ids_are_the_files_names() {
        assert_eq!(file_name(Path::new("/a/data.img"), ID_BYTES), "data.img");
        assert_eq!(file_name(Path::new("/a/ääääääääääääää"), ID_BYTES), "ä".repeat(10));
        assert_eq!(file_name(Path::new("/"), ID_BYTES), "");
    }

    #[test]
    fn what_cannot_be_opened_is_told_before_the_machine_is_asked() {
        let disk = DiskOption { path: "/nonexistent/x".into(), readonly: false, limits: Default::default() };
        let error = request(&Command::AddDisk { disk, id: None }).unwrap_err().to_string();
        assert!(error.contains("opening the disk /nonexistent/x"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 << 20).unwrap();
        let pmem = PmemOption { path: file.path().into(), sharing: Sharing::CopyOnWrite };
        let (request, files) = request(&Command::AddPmem { pmem, id: Some("p".into()) }).unwrap();
        assert_eq!(request, Request::AddPmem(AddPmem { id: "p".to_string(), access: Access::Cow }));
        assert_eq!(files.len(), 1);
    }
}
