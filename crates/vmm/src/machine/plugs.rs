//! The devices of a machine, which come and go: each with its place on the bus, its windows in guest memory, and its entry in the
//! event loop.
//!
//! ```text
//!   plug:    windows ─► KVM memory slots ─► bus, event loop                       the guest rescans its bus
//!   unplug:  (by force: the device answers with errors from now on, until the guest lets go)
//!            driver's reset, doorbells ─► bus, event loop ─► memory slots ─► windows     the guest has let go before
//! ```
//!
//! Which windows a device can address is decided when its driver starts it: RAM, and the windows that are there then. A window that
//! is plugged later can be named in a descriptor of an earlier device once its driver has started it anew. A window that was
//! unplugged stays without access in the view of devices that were started before.

use super::devices::Made;
use super::hotplug::slots::Slot;
use super::kvm::{KvmDoorbells, KvmMessages};
use super::{FIRST_PORT, MachineError, PORTS_PER_SLOT};
use crate::bus::lock;
use crate::control::answers::{DeviceState, DeviceStats};
use crate::control::protocol::MAX_ID;
use crate::event_loop::{EventLoop, SourceHandle};
use crate::memory::{MMIO32_END, MMIO32_START, MemoryError, PAGE, Window, WindowAllocator, slots, window};
use crate::pci::{self, host_bridge::HostBridge};
use crate::vfio::bars::{Bars, KvmSlots};
use crate::vfio::container::Container;
use crate::vfio::function::HostFunction;
use crate::vfio::kvm_groups::KvmGroups;
use crate::vfio::vectors::{KvmLines, Vectors};
use crate::vfio::{self, OpenFunction, VfioError};
use crate::virtio::counters::Counters;
use crate::virtio::transport::{Host, Places, VirtioPci};
use kvm_ioctls::VmFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

/// Kinds of devices that can be taken away, by the first word of their names.
const REMOVABLE: [&str; 4] = ["block", "pmem", "fs", "net"];

/// A window with its memory slot.
struct Mapped {
    slot: u32,
    region: Arc<GuestRegionMmap>,
    /// Whether KVM refuses the guest's writes.
    readonly: bool,
    /// Whether its pages are this machine's own.
    private: bool,
}

/// A function of the host on the bus.
struct Passed {
    address: String,
    place: usize,
}

/// Places of 32-bit BARs of functions of the host: behind the pages of virtio devices' MSI-X tables, one for each place on the bus.
const LOW_BARS: u64 = MMIO32_START + pci::MAX_DEVICES as u64 * PAGE;

/// A device on the bus.
struct Plugged {
    id: String,
    kind: String,
    place: usize,
    function: Arc<Mutex<VirtioPci>>,
    source: SourceHandle,
    windows: Vec<Mapped>,
    /// Removed by force: it stays on the bus, without what was behind it, until the guest lets go.
    leaving: bool,
    /// Frees the place that it has taken.
    _slot: Option<Slot>,
    counters: Option<Arc<Counters>>,
}

/// All devices.
pub struct Plugs {
    vm: Arc<VmFd>,
    bus: Arc<pci::Bus>,
    memory: GuestMemoryMmap,
    /// Places windows.
    pub windows: WindowAllocator,
    /// Which memory slots are taken.
    slots: Vec<bool>,
    plugged: Vec<Plugged>,
    /// What functions of the host reach of our memory, when there are any.
    dma: Option<Arc<Container>>,
    passed: Vec<Passed>,
    _groups: Option<KvmGroups>,
}

impl Plugs {
    /// An empty bus with a host bridge; gives `ram` to KVM.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn new(
        vm: Arc<VmFd>,
        ram: GuestMemoryMmap,
        windows: WindowAllocator,
        dma: Option<Arc<Container>>,
    ) -> Result<Self, MachineError> {
        let bus = Arc::new(pci::Bus::new(vec![Arc::new(Mutex::new(HostBridge::new()))]));
        for (slot, region) in ram.iter().enumerate() {
            slots::add(&vm, slot as u32, region, false)?;
            if let Some(dma) = &dma {
                dma.map(region, true)?;
            }
        }
        let slots = vec![true; ram.num_regions()];
        let (plugged, passed) = (Vec::new(), Vec::new());
        Ok(Plugs { vm, bus, memory: ram, windows, slots, plugged, dma, passed, _groups: None })
    }

    /// Puts functions of the host on the bus, each at its place. To be done before other devices take places.
    ///
    /// # Errors
    /// When one of them cannot be shown to a guest.
    pub fn pass(&mut self, functions: Vec<OpenFunction>) -> Result<(), MachineError> {
        let mut low = LOW_BARS;
        let lines = Arc::new(KvmLines::new(self.vm.clone()));
        let groups = (!functions.is_empty()).then(|| KvmGroups::new(&self.vm));
        for (number, OpenFunction { device, slot }) in functions.into_iter().enumerate() {
            let windows = &mut self.windows;
            let place = |size: u64, wide: bool| match wide {
                true => windows.place(size),
                false => {
                    let address = low.next_multiple_of(size);
                    low = address.checked_add(size).filter(|end| *end <= MMIO32_END)?;
                    Some(address)
                }
            };
            groups.iter().for_each(|groups| groups.add(&device));
            let unfit = |why| device.unfit(why);
            let shown = vfio::config::build(&device.config(), device.regions(), unfit, place)?;
            let mut bars = Bars::new(Box::new(KvmSlots(self.vm.clone())));
            for (bar, range) in vfio::function::parts(&shown) {
                if device.regions()[bar].mappable {
                    let mapped = device.map(bar, range.start, range.end - range.start)?;
                    bars.add(number, bar, &range, mapped.as_ptr() as u64);
                }
            }
            let vectors = Vectors::new(shown.msix.vectors, number, lines.clone())
                .map_err(VfioError::request("making eventfds for interrupts"))?;
            let address = device.address().to_string();
            let function = HostFunction::new(&address, Box::new(device), shown, vectors, bars);
            self.bus.set(usize::from(slot), Some(Arc::new(Mutex::new(function))));
            self.passed.push(Passed { address, place: usize::from(slot) });
        }
        self._groups = groups;
        Ok(())
    }

    /// Whether devices with windows can come: functions of the host would have to reach them.
    pub fn pins_memory(&self) -> bool {
        self.dma.is_some()
    }

    /// The bus.
    pub fn bus(&self) -> Arc<pci::Bus> {
        self.bus.clone()
    }

    /// RAM and all windows that are there now.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Whether there is a device `id`.
    pub fn has(&self, id: &str) -> bool {
        let passed = self.passed.iter().any(|function| function.address == id);
        passed || self.plugged.iter().any(|device| device.id == id)
    }

    /// Puts all devices in, or none; returns the place of the last one.
    ///
    /// # Errors
    /// When there is no place, or KVM refuses something.
    pub fn plug(&mut self, events: &mut EventLoop, made: Vec<Made>) -> Result<String, MachineError> {
        let before = self.plugged.len();
        let free = pci::MAX_DEVICES - 1 - before - self.passed.len();
        let mut parts = Vec::new();
        let mut result = if made.len() > free {
            Err(MachineError::TooMany(before + self.passed.len() + made.len()))
        } else {
            Ok(())
        };
        // All windows first, so that each device can address them all.
        for Made { device, windows, slot, .. } in made {
            let mut mapped = Vec::new();
            for window in windows {
                let window = self.number(window);
                if result.is_ok() {
                    result = self.map(&window);
                }
                match result {
                    Ok(()) => mapped.push(window),
                    Err(_) => self.give_back(&window.region),
                }
            }
            parts.push((device, mapped, slot));
        }
        for (device, windows, slot) in parts {
            if result.is_ok() {
                result = self.attach(events, device, windows, slot);
            } else {
                self.unmap(windows);
            }
        }
        match result {
            Ok(()) => {
                self.show_memory();
                Ok(self.plugged.last().map(|device| pci_address(device.place)).unwrap_or_default())
            }
            Err(error) => {
                for device in self.plugged.split_off(before) {
                    self.take_away(events, device);
                }
                Err(error)
            }
        }
    }

    fn attach(
        &mut self,
        events: &mut EventLoop,
        device: Box<dyn crate::virtio::device::Device>,
        windows: Vec<Mapped>,
        slot: Option<Slot>,
    ) -> Result<(), MachineError> {
        let (id, kind) = self.name(device.name());
        let counters = device.counters();
        let host = Host {
            messages: Arc::new(KvmMessages(self.vm.clone())),
            doorbells: Arc::new(KvmDoorbells(self.vm.clone())),
            memory: self.memory.clone(),
        };
        let place = self.bus.free_slot().unwrap_or(pci::MAX_DEVICES);
        let places = Places {
            ports: FIRST_PORT + place as u16 * PORTS_PER_SLOT,
            msix: MMIO32_START as u32 + place as u32 * PAGE as u32,
        };
        let function = match VirtioPci::new(device, host, places) {
            Ok(function) => Arc::new(Mutex::new(function)),
            Err(error) => {
                self.unmap(windows);
                return Err(error.into());
            }
        };
        let source = events.add(function.clone());
        lock(&function).set_handle(source.clone());
        self.bus.set(place, Some(function.clone()));
        let (leaving, _slot) = (false, slot);
        self.plugged.push(Plugged { id, kind, place, function, source, windows, leaving, _slot, counters });
        Ok(())
    }

    /// Takes a device away. With `force` even if a driver uses it: then what is behind it goes at once, and its place on the bus when the
    /// guest lets go of it ([`Plugs::sweep`]), for a driver whose device was not there any more would wait for its answers for ever.
    ///
    /// # Errors
    /// Why it stays, in words.
    pub fn unplug(&mut self, events: &mut EventLoop, id: &str, force: bool) -> Result<(), String> {
        if self.passed.iter().any(|function| function.address == id) {
            return Err("a function of the host stays as long as the machine".to_string());
        }
        let index = self.plugged.iter().position(|device| device.id == id);
        let Some(index) = index else { return Err(format!("there is no device {id:?}; `state` lists them")) };
        let device = &self.plugged[index];
        if !REMOVABLE.contains(&device.kind.as_str()) {
            return Err(format!(
                "a {} cannot be taken away; disks, images, shares and networks can",
                device.kind
            ));
        }
        let active = lock(&device.function).is_active();
        if active && (device.leaving || !force) {
            let (what, or) = match device.leaving {
                true => ("has nothing of it but its place on the bus, and does not let go of that", ""),
                false => ("still uses it", ", or force it"),
            };
            return Err(format!(
                "{id:?}: the guest {what}; let it go there (`echo 1 > /sys/bus/pci/devices/{}/remove`){or}",
                pci_address(device.place)
            ));
        }
        if active {
            let device = &mut self.plugged[index];
            device.leaving = true;
            lock(&device.function).withdraw();
            let windows = std::mem::take(&mut device.windows);
            self.unmap(windows);
        } else {
            let device = self.plugged.remove(index);
            self.take_away(events, device);
        }
        self.show_memory();
        Ok(())
    }

    /// Takes away what was removed by force, and the guest has let go of since. Called when somebody asks for something, not at once: the
    /// guest's driver has a few accesses to make yet.
    pub fn sweep(&mut self, events: &mut EventLoop) {
        let gone = |device: &Plugged| device.leaving && !lock(&device.function).is_active();
        while let Some(index) = self.plugged.iter().position(gone) {
            let device = self.plugged.remove(index);
            self.take_away(events, device);
        }
    }

    fn take_away(&mut self, events: &mut EventLoop, device: Plugged) {
        lock(&device.function).unplug();
        self.bus.set(device.place, None);
        events.remove(&device.source);
        self.unmap(device.windows);
    }

    /// Gives a window to KVM and to the devices to come.
    fn map(&mut self, window: &Mapped) -> Result<(), MachineError> {
        let address = window.region.start_addr().raw_value();
        let place = |e: vm_memory::GuestRegionCollectionError| MemoryError::Place {
            what: "window",
            address,
            reason: e.to_string(),
        };
        let memory = self.memory.insert_region(window.region.clone()).map_err(place)?;
        // An image that others see, or nobody writes: the kernel pins no page of a file for writing.
        if let Some(dma) = &self.dma {
            dma.map(&window.region, window.private)?;
        }
        if let Err(error) = slots::add(&self.vm, window.slot, &window.region, window.readonly) {
            self.dma.iter().for_each(|dma| dma.unmap(&window.region));
            return Err(error.into());
        }
        self.slots[window.slot as usize] = true;
        self.memory = memory;
        Ok(())
    }

    /// A window with a memory slot of its own, of which KVM does not know yet.
    fn number(&mut self, Window { region, readonly, private }: Window) -> Mapped {
        let slot = self.slots.iter().position(|taken| !taken).unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(false);
        }
        Mapped { slot: slot as u32, region: Arc::new(region), readonly, private }
    }

    fn unmap(&mut self, windows: Vec<Mapped>) {
        for Mapped { slot, region, .. } in windows {
            // KVM refuses it for want of memory only; then the place stays taken, and empty.
            self.dma.iter().for_each(|dma| dma.unmap(&region));
            if slots::remove(&self.vm, slot, &region).is_ok() {
                self.slots[slot as usize] = false;
                self.give_back(&region);
            }
            if let Ok((memory, _)) = self.memory.remove_region(region.start_addr(), region.len()) {
                self.memory = memory;
            }
        }
    }

    fn give_back(&mut self, region: &GuestRegionMmap) {
        // It fails for want of memory only; the mapping stays then, and nobody can reach it.
        let _ = window::clear(region);
        self.windows.release(region.start_addr().raw_value());
    }

    /// Shows the windows to all devices, from the next start of their drivers on.
    fn show_memory(&self) {
        for device in &self.plugged {
            lock(&device.function).set_memory(self.memory.clone());
        }
    }

    /// Id and kind of a device with this name: what follows its kind, without what cannot be part of an id, and made unique.
    fn name(&self, name: &str) -> (String, String) {
        let (kind, rest) = name.split_once(' ').unwrap_or((name, name));
        let rest = rest.rsplit('/').next().unwrap_or(rest);
        let plain = |c: char| if c.is_control() || c.is_whitespace() { '_' } else { c };
        let mut id = String::new();
        for c in rest.chars().map(plain) {
            if id.len() + c.len_utf8() > MAX_ID - 4 {
                break;
            }
            id.push(c);
        }
        let id = if id.is_empty() { kind.to_string() } else { id };
        let numbered = (2..).map(|number| format!("{id}-{number}"));
        let unique = std::iter::once(id.clone()).chain(numbered).find(|id| !self.has(id)).unwrap_or_default();
        (unique, kind.to_string())
    }

    /// For `state`.
    pub fn states(&self) -> Vec<DeviceState> {
        let passed = |function: &Passed| DeviceState {
            id: function.address.clone(),
            kind: "vfio".to_string(),
            pci: pci_address(function.place),
            active: true,
            leaving: false,
        };
        let state = |device: &Plugged| DeviceState {
            id: device.id.clone(),
            kind: device.kind.clone(),
            pci: pci_address(device.place),
            active: lock(&device.function).is_active(),
            leaving: device.leaving,
        };
        self.passed.iter().map(passed).chain(self.plugged.iter().map(state)).collect()
    }

    /// For `stats`: those that count.
    pub fn stats(&self) -> Vec<DeviceStats> {
        let stats = |device: &Plugged| {
            let counters = device.counters.as_ref()?;
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            Some(DeviceStats {
                id: device.id.clone(),
                kind: device.kind.clone(),
                requests: read(&counters.requests),
                bytes_to_guest: read(&counters.bytes_to_guest),
                bytes_from_guest: read(&counters.bytes_from_guest),
                errors: read(&counters.errors),
                throttled: read(&counters.throttled),
            })
        };
        self.plugged.iter().filter_map(stats).collect()
    }
}

/// How the guest names a place.
fn pci_address(place: usize) -> String {
    format!("0000:00:{place:02x}.0")
}
