//! From opened files to devices on the bus.
#![expect(unsafe_code, reason = "gives a reserved address range to the device that maps files into it")]

use super::MachineError;
use super::hotplug::slots::Slot;
use crate::jail::{Jail, Role};
use crate::memory::ram::RamOptions;
use crate::memory::window::{self, Sharing};
use crate::memory::{HUGE_PAGE, Window, WindowAllocator};
use crate::virtio::balloon::control::BalloonControl;
use crate::virtio::balloon::{Balloon, BalloonOptions, Ram};
use crate::virtio::block::{Block, BlockOptions};
use crate::virtio::console::Console;
use crate::virtio::device::{Device, SharedMemory};
use crate::virtio::fs::Fs;
use crate::virtio::fs::share::window as dax;
use crate::virtio::fs::share::{Budget, Share, ShareOptions};
use crate::virtio::guest_io::Backing;
use crate::virtio::mem::blocks::MAX_BLOCKS;
use crate::virtio::mem::{Mem, MemControl};
use crate::virtio::net::{Net, NetOptions};
use crate::virtio::pmem::{Flush, Pmem};
use crate::virtio::rate_limit::PerSecond;
use crate::virtio::rng::{self, Rng};
use crate::virtio::vsock::Vsock;
use crate::virtio::vsock::host::HostSide;
use crate::virtio::workers::{ThreadStart, no_threads};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vm_memory::{Address, GuestMemoryRegion};

/// Worker threads of a disk: a flush does not hold up reads.
pub const DISK_THREADS: usize = 2;

/// Worker threads of a share: one that waits for the host's disk does not hold up the other.
pub const SHARE_THREADS: usize = 2;

/// What memory comes in, for Linux: the least that it can add on x86 (`MIN_MEMORY_BLOCK_SIZE`, 128 MiB).
pub const MEMORY_STEP: u64 = 128 << 20;

/// A device whose files are open.
#[derive(Debug)]
pub enum OpenDevice {
    /// A disk.
    Block {
        /// Raw file or block device.
        file: File,
        /// By which the guest finds it.
        serial: String,
        /// The guest cannot write it.
        readonly: bool,
        /// What it may be asked for.
        limits: PerSecond,
    },
    /// An image in guest memory.
    Pmem {
        /// The image.
        file: File,
        /// For the log.
        name: String,
        /// Bytes.
        size: u64,
        /// Who sees writes.
        sharing: Sharing,
    },
    /// Memory that comes and goes.
    Mem {
        /// Most bytes of it, a multiple of [`MEMORY_STEP`].
        size: u64,
        /// How it is made.
        options: RamOptions,
    },
    /// Entropy.
    Rng,
    /// Gives memory back to the host.
    Balloon,
    /// `hvc0`.
    Console {
        /// What the guest reads.
        input: Option<File>,
        /// What it writes.
        output: Option<File>,
    },
    /// A network interface.
    Net {
        /// The host's end: a descriptor for each pair of queues.
        taps: Vec<File>,
        /// Its name there.
        name: String,
        /// The guest's address.
        mac: [u8; 6],
        /// What may come to the guest.
        rx: PerSecond,
        /// What may come from it.
        tx: PerSecond,
    },
    /// A directory of the host.
    Share {
        /// The directory, O_PATH.
        root: OwnedFd,
        /// `/proc/self/fd`, where it cannot be reached by its path any more.
        proc: Option<OwnedFd>,
        /// By which the guest mounts it.
        tag: String,
        /// Nothing is ever changed.
        readonly: bool,
        /// Bytes of the DAX window, a multiple of 2 MiB; 0 for none.
        dax: u64,
    },
    /// Sockets between guest and host.
    Vsock {
        /// The guest's address.
        cid: u64,
        /// The host's side.
        host: HostSide,
    },
}

/// What devices are made with.
pub struct Workshop<'a> {
    /// Places windows.
    pub windows: &'a mut WindowAllocator,
    /// RAM that may go back to the host; what comes later is added when its device is made, before the balloon's.
    pub ram: Vec<Ram>,
    /// Where threads of devices come from.
    pub threads: Threads,
}

/// Where threads of devices come from.
#[derive(Clone)]
pub enum Threads {
    /// New ones, restricted by the jail.
    New(Jail),
    /// Such as wait for this kind of device, if it has threads; and how many descriptors a share may have.
    Waiting(Option<ThreadStart>, Budget),
}

impl Threads {
    fn of(&self, role: Role) -> ThreadStart {
        match self {
            Threads::New(jail) => jail.thread(role),
            Threads::Waiting(Some(threads), _) => Arc::clone(threads),
            Threads::Waiting(None, _) => no_threads(),
        }
    }

    fn budget(&self) -> Option<Budget> {
        match self {
            Threads::New(_) => None,
            Threads::Waiting(_, budget) => Some(*budget),
        }
    }
}

/// A device, and what came with it.
pub struct Made {
    /// The device.
    pub device: Box<dyn Device>,
    /// Its windows.
    pub windows: Vec<Window>,
    /// The balloon's control.
    pub balloon: Option<BalloonControl>,
    /// The control of memory that comes and goes.
    pub memory: Option<MemControl>,
    /// What it occupies until it goes, when it came later.
    pub slot: Option<Slot>,
}

/// What comes with a device.
#[derive(Default)]
struct Extras {
    windows: Vec<Window>,
    balloon: Option<BalloonControl>,
    memory: Option<MemControl>,
}

/// Makes a device.
///
/// # Errors
/// When it cannot be made; then its windows are free again.
pub fn make(device: OpenDevice, workshop: &mut Workshop<'_>) -> Result<Made, MachineError> {
    let mut extras = Extras::default();
    match one(device, workshop, &mut extras) {
        Ok(device) => {
            let Extras { windows, balloon, memory } = extras;
            Ok(Made { device, windows, balloon, memory, slot: None })
        }
        Err(error) => {
            for window in extras.windows {
                // Reserved addresses are all that is left when it fails.
                let _ = window::clear(&window.region);
                workshop.windows.release(window.region.start_addr().raw_value());
            }
            Err(error)
        }
    }
}

fn one(
    device: OpenDevice,
    workshop: &mut Workshop<'_>,
    made: &mut Extras,
) -> Result<Box<dyn Device>, MachineError> {
    let failed = |what: &str| {
        let what = what.to_string();
        move |e: io::Error| MachineError::Device { device: what, reason: e.to_string() }
    };
    Ok(match device {
        OpenDevice::Block { file, serial, readonly, limits } => {
            let name = format!("disk {serial}");
            let options = BlockOptions { serial, readonly, limits: limits.into(), threads: DISK_THREADS };
            let block = Block::new(file, &options, &workshop.threads.of(Role::Disk))
                .map_err(|e| MachineError::Device { device: name, reason: e.to_string() })?;
            Box::new(block)
        }
        OpenDevice::Pmem { file, name, size, sharing } => {
            let window = window::file(workshop.windows, &file, size, sharing)?;
            let start = window.region.start_addr().raw_value();
            made.windows.push(window);
            let flush = if sharing == Sharing::Shared { Flush::File(file) } else { Flush::Nothing };
            let thread = workshop.threads.of(Role::Flush);
            Box::new(Pmem::new(&name, start, size, flush, &thread).map_err(failed("pmem"))?)
        }
        OpenDevice::Mem { size, options } => Box::new(memory(workshop, made, size, options)?),
        OpenDevice::Rng => Box::new(Rng::new(rng::DEFAULT_LIMITS).map_err(failed("rng"))?),
        OpenDevice::Balloon => {
            let ram = workshop.ram.clone();
            let options = BalloonOptions { ram, reporting: true, deflate_on_oom: true };
            let (balloon, control) = Balloon::new(options).map_err(failed("balloon"))?;
            made.balloon = Some(control);
            Box::new(balloon)
        }
        OpenDevice::Console { input, output } => {
            Box::new(Console::new(input, output, None).map_err(failed("console"))?)
        }
        OpenDevice::Net { taps, name, mac, rx, tx } => {
            let label = format!("net {name}");
            let options = NetOptions { name, mac, mtu: None, rx: rx.into(), tx: tx.into() };
            Box::new(Net::new(taps, &options).map_err(failed(&label))?)
        }
        OpenDevice::Share { root, proc, tag, readonly, dax } => {
            let window = (dax > 0).then(|| dax_window(workshop, made, dax)).transpose()?;
            let shared = window.as_ref().map(|w| SharedMemory { id: 0, address: w.address, size: w.size });
            let options = ShareOptions { readonly, window, proc, ..ShareOptions::default() };
            Box::new(share(root, &tag, options, shared, &workshop.threads)?)
        }
        OpenDevice::Vsock { cid, host } => Box::new(Vsock::new(cid, host).map_err(failed("vsock"))?),
    })
}

/// The device for a directory; `window` is that of `options` as the guest sees it.
///
/// # Errors
/// When it cannot be made.
pub fn share(
    root: OwnedFd,
    tag: &str,
    options: ShareOptions,
    window: Option<SharedMemory>,
    threads: &Threads,
) -> Result<Fs, MachineError> {
    let failed = |reason: String| MachineError::Device { device: format!("share {tag}"), reason };
    let thread = threads.of(Role::Share { readonly: options.readonly });
    let options = ShareOptions { budget: threads.budget(), ..options };
    let server = Share::new(root, options).map_err(|e| failed(e.to_string()))?;
    Fs::new(tag, Arc::new(server), window, SHARE_THREADS, &thread).map_err(|e| failed(e.to_string()))
}

/// Reserves addresses for memory, and the device that hands it out.
fn memory(
    workshop: &mut Workshop<'_>,
    made: &mut Extras,
    size: u64,
    options: RamOptions,
) -> Result<Mem, MachineError> {
    let window = window::memory(workshop.windows, size, options)?;
    let start = window.region.start_addr().raw_value();
    made.windows.push(window);
    let block = HUGE_PAGE.max(size.div_ceil(MAX_BLOCKS).next_power_of_two());
    let ram = Ram { range: start..start + size, backing: Backing::Private };
    let (device, control) = Mem::new(ram.range.clone(), block, ram.backing)
        .map_err(|e| MachineError::Device { device: "mem".to_string(), reason: e.to_string() })?;
    made.memory = Some(control);
    workshop.ram.push(ram);
    Ok(device)
}

/// Reserves a window of guest memory for a share.
fn dax_window(
    workshop: &mut Workshop<'_>,
    made: &mut Extras,
    size: u64,
) -> Result<dax::Window, MachineError> {
    let window = window::dax(workshop.windows, size)?;
    let (address, host) = (window.region.start_addr().raw_value(), window.region.as_ptr());
    made.windows.push(window);
    // SAFETY: reserved just now, for this share alone and without access. It becomes part of the machine's memory, which lives as
    // long as the process; devices reach guest memory by copies only.
    Ok(unsafe { dax::Window::new(address, size, host) })
}
