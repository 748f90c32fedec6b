//! Builds a machine and runs it until it ends.
//!
//! ```text
//!   Files (opened, checked) ─► RAM, kernel mapped ─► KVM: VM, slots, irqchip ─► devices on the bus ─► vCPUs
//!        └─ nothing exists in KVM before all files are open                                             │
//!   main thread: event loop ◄── Supervisor::ended ── one thread per vCPU ◄──────────────────────────────┘
//!                └─ control.rs: pause (vcpu/gate.rs), stats, hotplug.rs ─► plugs.rs: devices, windows, memory slots
//! ```

mod control;
pub mod devices;
pub mod files;
pub mod hotplug;
pub mod kvm;
mod memory_use;
mod plugs;

use crate::boot::{self, BootError, Source, cmdline, layout};
use crate::bus::{Bus, lock};
use crate::control::server::Server;
use crate::event_loop::{Console, EventLoop, LoopError, Waker};
use crate::jail::{Jail, JailError, Role};
use crate::legacy::ioapic::IoApic;
use crate::legacy::stamps::Stamps;
use crate::legacy::uart::Uart;
use crate::memory::ram::{self, RamOptions};
use crate::memory::{MemoryError, PAGE, WindowAllocator};
use crate::pci;
use crate::vcpu::count::ExitCounts;
use crate::vcpu::exit::ExitReason;
use crate::vcpu::gate::Gate;
use crate::vcpu::thread::Supervisor;
use crate::vcpu::{self, VcpuError};
use crate::vfio::VfioError;
use crate::virtio::balloon::Ram;
use crate::virtio::guest_io::Backing;
use crate::virtio::transport::TransportError;
use control::{Control, Controlled, RamSize};
use devices::{Threads, Workshop};
use files::Files;
use hotplug::slots::{SlotCounts, Slots};
use kvm::{KvmError, KvmMessages, Pin};
use kvm_ioctls::{VcpuFd, VmFd};
use machine_spec::MachineSpec;
use plugs::Plugs;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// `mode` in `native_machine_emergency_restart`: what a warm reboot leaves in [`layout::WARM_REBOOT_FLAG`].
const WARM: u16 = 0x1234;

/// A machine that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The kernel cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM is not there or refuses something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A vCPU cannot be made.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A device cannot be made.
    #[error("making the device {device}: {reason}")]
    Device {
        /// Which one.
        device: String,
        /// Why.
        reason: String,
    },
    /// A function of the host cannot be passed.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// It cannot be put on the bus.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// More devices than a bus has slots.
    #[error("{0} devices do not fit on one bus, {max} do", max = pci::MAX_DEVICES - 1)]
    TooMany(usize),
    /// The event loop cannot work.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// A thread could not be restricted.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The signal that stops vCPUs cannot be had.
    #[error("setting the signal that stops vCPUs: {0}")]
    Signal(#[source] std::io::Error),
    /// The host refuses a thread.
    #[error("starting the thread of vCPU {index}: {source}")]
    Thread {
        /// Which vCPU.
        index: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// First port of slot 0, and ports of a slot. Where PCs have their PCI devices' ports.
const FIRST_PORT: u16 = 0xC000;
const PORTS_PER_SLOT: u16 = 0x100;

/// What a machine does beyond its spec.
#[derive(Debug, Clone)]
pub struct Options {
    /// How RAM is made.
    pub ram: RamOptions,
    /// Devices that may come later.
    pub slots: SlotCounts,
    /// Count what makes the vCPUs exit.
    pub count_exits: bool,
    /// When the program started; times are counted from here.
    pub start: Instant,
}

/// A machine, ready to run.
pub struct Machine {
    bus: Arc<Bus>,
    vcpus: Vec<VcpuFd>,
    events: EventLoop,
    end: Arc<End>,
    counts: Option<Arc<ExitCounts>>,
    control: Control,
    jail: Jail,
}

impl Machine {
    /// Builds it. Nothing runs yet but threads of devices, restricted by `jail`.
    ///
    /// # Errors
    /// [`MachineError`]; then nothing is left but memory of this process.
    pub fn build(
        spec: &MachineSpec,
        files: Files,
        options: Options,
        jail: Jail,
    ) -> Result<Self, MachineError> {
        let size = spec.memory_mib << 20;
        let ram = ram::allocate(size, options.ram)?;
        let format = boot::format(&files.kernel)?;
        let line = cmdline::complete(&spec.cmdline(), files.console.is_some(), format);
        let source = Source {
            kernel: &files.kernel,
            initramfs: files.initramfs.as_ref(),
            cmdline: &line,
            vcpus: spec.vcpus,
            ioapic: files.console.is_some(),
            ram: size,
        };
        let loaded = boot::load(&ram, &source)?;
        let mut windows = WindowAllocator::new(size);
        let threads = Threads::New(jail.clone());
        let mut workshop =
            Workshop { windows: &mut windows, ram: returnable(size, &loaded.files()), threads };
        let made = files.devices.into_iter().map(|device| devices::make(device, &mut workshop));
        let made = made.collect::<Result<Vec<_>, _>>()?;
        let slots = Slots::new(&options.slots, &jail)?;
        let balloon = made.iter().find_map(|made| made.balloon.clone());
        let memory = made.iter().find_map(|made| made.memory.clone());
        let size = RamSize { start: size, more: memory };
        let vm = kvm::create(&files.kvm)?;
        let mut plugs = Plugs::new(vm.fd.clone(), ram, windows, files.functions.container)?;
        plugs.pass(files.functions.all)?;
        let mut events = EventLoop::new()?;
        events.end_on_signals(files.signals)?;
        let console = files.console.map(|console| add_uart(&mut events, &vm.fd, console)).transpose()?;
        let (uart, ioapic) = console.unwrap_or_default();
        plugs.plug(&mut events, made)?;
        let memory = plugs.memory().clone();
        let bus = Bus { uart, ioapic, stamps: Arc::new(Stamps::new(options.start)), pci: plugs.bus() };
        let vcpus = (0..spec.vcpus)
            .map(|index| vcpu::create(&vm.fd, &memory, &vm.cpuid, index, spec.vcpus, loaded.entry))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(first) = vcpus.first() {
            loaded.files().iter().for_each(|range| vcpu::prefault::map(first, range));
        }
        let triple_fault_is_reset = cmdline::reboots_by_triple_fault(&line);
        let end = End { reason: Mutex::new(None), waker: events.waker(), triple_fault_is_reset, memory };
        let counts = options.count_exits.then(Arc::default);
        let gate = Arc::new(Gate::new(spec.vcpus as usize).map_err(MachineError::Signal)?);
        let server = files.control.map(|socket| Server::new(&events, socket)).transpose()?;
        let memory_use = files.memory_use;
        let machine = Controlled { gate, size, plugs, balloon, memory_use, slots, paused: false };
        let control = Control { server, machine };
        Ok(Machine { bus: Arc::new(bus), vcpus, events, end: Arc::new(end), counts, control, jail })
    }

    /// Runs it until it ends.
    ///
    /// # Errors
    /// When a thread cannot be started or restricted, or the event loop fails.
    pub fn run(mut self) -> Result<ExitReason, MachineError> {
        for (index, mut vcpu) in self.vcpus.drain(..).enumerate() {
            let gate = self.control.machine.gate.clone();
            let bus = self.bus.clone();
            let supervisor: Arc<dyn Supervisor> = self.end.clone();
            let (counts, jail) = (self.counts.clone(), self.jail.clone());
            let name = format!("vcpu{index}");
            let first = self.jail.restriction(Role::Vcpu, &name);
            let work = move || {
                first();
                let passage = gate.enter(index, &mut vcpu);
                if jail.all_in() {
                    vcpu::thread::run(&mut vcpu, &bus, &passage, &supervisor, counts.as_deref());
                }
            };
            std::thread::Builder::new()
                .name(name)
                .stack_size(VCPU_STACK)
                .spawn(work)
                .map_err(|source| MachineError::Thread { index, source })?;
        }
        self.jail.main_thread(Role::EventLoop);
        if !self.jail.all_in()
            && let Some(failure) = self.jail.failure()
        {
            return Err(failure.into());
        }
        let end = self.end;
        let reason = self.events.run(&mut self.control, || lock(&end.reason).clone())?;
        Ok(reason)
    }

    /// What made the vCPUs exit, when that is counted.
    pub fn exit_counts(&self) -> Option<Arc<ExitCounts>> {
        self.counts.clone()
    }

    /// Times of steps of the boot, kept while the machine runs.
    pub fn stamps(&self) -> Arc<Stamps> {
        self.bus.stamps.clone()
    }
}

/// RAM without what files are mapped to: what a balloon may take.
fn returnable(size: u64, files: &[Range<u64>]) -> Vec<Ram> {
    let mut parts: Vec<Range<u64>> =
        ram::ranges(size).into_iter().map(|(start, length)| start..start + length).collect();
    for file in files {
        let cut = |part: Range<u64>| {
            let before = part.start..part.end.min(file.start);
            let behind = part.start.max(file.end.next_multiple_of(PAGE))..part.end;
            [before, behind].into_iter().filter(|rest| rest.start < rest.end)
        };
        parts = parts.into_iter().flat_map(cut).collect();
    }
    parts.into_iter().map(|range| Ram { range, backing: Backing::Private }).collect()
}

/// What a serial console is made of.
type LegacyConsole = (Option<Arc<Mutex<Uart>>>, Option<Arc<Mutex<IoApic>>>);

/// A UART, and the IOAPIC that takes its interrupt.
fn add_uart(
    events: &mut EventLoop,
    vm: &Arc<VmFd>,
    console: files::Console,
) -> Result<LegacyConsole, MachineError> {
    let ioapic = Arc::new(Mutex::new(IoApic::new(Arc::new(KvmMessages(vm.clone())))));
    let line = Arc::new(Pin::new(ioapic.clone(), crate::legacy::uart::IRQ));
    let (ours, its) = drained()?;
    let uart = Arc::new(Mutex::new(Uart::new(line, console.output, its)));
    events.console(Console::new(uart.clone(), console.input, ours))?;
    Ok((Some(uart), Some(ioapic)))
}

/// Both ends of the UART's "I have read all input".
fn drained() -> Result<(EventFd, EventFd), LoopError> {
    let failed = |source| LoopError { doing: "creating an eventfd", source };
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(failed)?;
    let other = event.try_clone().map_err(failed)?;
    Ok((event, other))
}

/// Stack of a vCPU's thread: it handles one access at a time.
const VCPU_STACK: usize = 256 << 10;

/// Where the vCPUs report the end.
struct End {
    reason: Mutex<Option<ExitReason>>,
    waker: Waker,
    triple_fault_is_reset: bool,
    memory: GuestMemoryMmap,
}

impl Supervisor for End {
    fn ended(&self, reason: ExitReason) {
        lock(&self.reason).get_or_insert(reason);
        self.waker.wake();
    }

    fn reset(&self, triple_fault: bool) {
        let flag: u16 = self.memory.read_obj(GuestAddress(layout::WARM_REBOOT_FLAG)).unwrap_or(0);
        self.ended(match (flag, triple_fault && !self.triple_fault_is_reset) {
            (WARM, _) => ExitReason::Panic,
            (_, true) => ExitReason::TripleFault,
            (_, false) => ExitReason::Reset,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balloon_never_takes_mapped_files() {
        let size = 64 << 20;
        let files = [0x100_0000..0x180_0001, 0x3F0_0000..0x3FF_F000];
        let ranges: Vec<_> = returnable(size, &files).into_iter().map(|ram| ram.range).collect();
        assert_eq!(ranges, [0..0x100_0000, 0x180_1000..0x3F0_0000, 0x3FF_F000..0x400_0000]);
    }
}
