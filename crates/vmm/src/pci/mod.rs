//! The PCI bus: bus 0 and nothing else, configuration by ports 0xCF8/0xCFC, BARs placed at power-on, interrupts by MSI-X only.
//!
//! ```text
//!   0xCF8 address latch ─► 0xCFC data ─► Function::config (256 bytes with a write mask)
//!                                            └─ command or BAR written ─► routes rebuilt
//!   port or MMIO access ─► routes ─► Function::read_bar / write_bar
//! ```
//!
//! Locks: `routes` is read for an access and released before the function's own lock is taken, so that a function that
//! works keeps no access to another one waiting.

pub mod config;
pub mod host_bridge;
pub mod msix;

use crate::bus::lock;
use config::ConfigSpace;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// `CONFIG_ADDRESS` (PCI Local Bus 3.0, 3.2.2.3.2).
pub const ADDRESS_PORT: u16 = 0xCF8;
/// First port of `CONFIG_DATA`.
const DATA_PORT: u16 = 0xCFC;
/// Last port of `CONFIG_DATA`.
pub const LAST_DATA_PORT: u16 = 0xCFF;
/// Bit of `CONFIG_ADDRESS` that turns a data access into a configuration access.
const ENABLE: u32 = 1 << 31;
/// Devices on a bus.
pub const MAX_DEVICES: usize = 32;

/// An address space of BARs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Ports.
    Io,
    /// Memory.
    Memory,
}

/// What sits in a slot.
pub trait Function: Send {
    /// Its configuration space.
    fn config(&mut self) -> &mut ConfigSpace;

    /// Bytes `offset..offset + length` of the configuration space are about to be read.
    fn config_read(&mut self, offset: usize, length: usize) {
        let _ = (offset, length);
    }

    /// Bytes `offset..offset + length` of the configuration space were written.
    fn config_written(&mut self, offset: usize, length: usize);

    /// Reads from a BAR. `data` holds ones; what is not answered stays so.
    fn read_bar(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// Writes to a BAR.
    fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]);
}

/// A slot's occupant.
pub type Slot = Arc<Mutex<dyn Function>>;

/// Where an access to a range goes.
#[derive(Debug, Clone, Copy)]
struct Route {
    space: Space,
    start: u64,
    end: u64,
    device: usize,
    bar: usize,
}

/// The bus.
pub struct Bus {
    /// [`MAX_DEVICES`] places.
    slots: RwLock<Vec<Option<Slot>>>,
    address: AtomicU32,
    routes: RwLock<Vec<Route>>,
    routing: Mutex<()>,
}

impl Bus {
    /// A bus with these functions in slots 0.., at most [`MAX_DEVICES`].
    pub fn new(slots: Vec<Slot>) -> Self {
        let mut slots: Vec<_> = slots.into_iter().map(Some).collect();
        slots.resize_with(MAX_DEVICES, || None);
        let (slots, routes) = (RwLock::new(slots), RwLock::new(Vec::new()));
        let bus = Bus { slots, address: AtomicU32::new(0), routes, routing: Mutex::new(()) };
        bus.route();
        bus
    }

    /// The first place without a function.
    pub fn free_slot(&self) -> Option<usize> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).iter().position(Option::is_none)
    }

    /// Puts a function into a place, or takes the one away that is there. The guest sees it when it looks at the bus again.
    pub fn set(&self, index: usize, function: Option<Slot>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(index) {
            *slot = function;
        }
        drop(slots);
        self.route();
    }

    fn slot(&self, index: usize) -> Option<Slot> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(index)?.clone()
    }

    /// `in` from the configuration ports.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        if port < DATA_PORT {
            let address = self.address.load(Ordering::Relaxed).to_le_bytes();
            let offset = usize::from(port - ADDRESS_PORT);
            if let Some(bytes) = address.get(offset..offset + data.len()) {
                data.copy_from_slice(bytes);
            }
            return;
        }
        if let Some((slot, offset)) = self.target(port, data.len()) {
            let mut function = lock(&slot);
            function.config_read(offset, data.len());
            function.config().read(offset, data);
        }
    }

    /// `out` to the configuration ports.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        if port < DATA_PORT {
            // Only a whole double word reaches the latch.
            if let (ADDRESS_PORT, Ok(bytes)) = (port, data.try_into()) {
                self.address.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
            }
            return;
        }
        if let Some((slot, offset)) = self.target(port, data.len()) {
            let mut function = lock(&slot);
            let routed = function.config().write(offset, data);
            function.config_written(offset, data.len());
            drop(function);
            if routed {
                self.route();
            }
        }
    }

    /// The slot that the address latch names, and the offset in its configuration space.
    fn target(&self, port: u16, length: usize) -> Option<(Slot, usize)> {
        let address = self.address.load(Ordering::Relaxed);
        let lane = usize::from(port - DATA_PORT);
        let (bus, device, function) = (address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 7);
        // Bits 24 to 30 are AMD's way to extended registers, which this bus does not have.
        let extended = address >> 24 & 0x7F;
        if address & ENABLE == 0 || extended != 0 || bus != 0 || function != 0 || lane + length > 4 {
            return None;
        }
        self.slot(device as usize).map(|slot| (slot, (address & 0xFC) as usize + lane))
    }

    /// A read that may hit a BAR.
    pub fn bar_read(&self, space: Space, address: u64, data: &mut [u8]) {
        if let Some((slot, bar, offset)) = self.find(space, address, data.len()) {
            lock(&slot).read_bar(bar, offset, data);
        }
    }

    /// A write that may hit a BAR.
    pub fn bar_write(&self, space: Space, address: u64, data: &[u8]) {
        if let Some((slot, bar, offset)) = self.find(space, address, data.len()) {
            lock(&slot).write_bar(bar, offset, data);
        }
    }

    fn find(&self, space: Space, address: u64, length: usize) -> Option<(Slot, usize, u64)> {
        let last = address.checked_add(length as u64)?;
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let route = *routes.iter().find(|r| r.space == space && r.start <= address && last <= r.end)?;
        drop(routes);
        Some((self.slot(route.device)?, route.bar, address - route.start))
    }

    /// Reads all BARs again.
    fn route(&self) {
        // Of two at once the later one sees what the earlier one has changed.
        let _one_at_a_time = lock(&self.routing);
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut routes = Vec::new();
        for (device, slot) in
            slots.iter().enumerate().filter_map(|(device, slot)| Some((device, slot.as_ref()?)))
        {
            for (bar, range) in lock(slot).config().decoded() {
                routes.push(Route {
                    space: range.space,
                    start: range.address,
                    end: range.address.saturating_add(range.size),
                    device,
                    bar,
                });
            }
        }
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }
}

#[cfg(test)]
mod tests {
    use super::config::{Bar, Identity};
    use super::*;
    use proptest::prelude::*;

    struct Echo {
        config: ConfigSpace,
        written: Vec<(usize, u64, usize)>,
    }

    impl Function for Echo {
        fn config(&mut self) -> &mut ConfigSpace {
            &mut self.config
        }
        fn config_written(&mut self, _offset: usize, _length: usize) {}
        fn read_bar(&mut self, bar: usize, _offset: u64, data: &mut [u8]) {
            data.fill(bar as u8);
        }
        fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]) {
            self.written.push((bar, offset, data.len()));
        }
    }

    fn bus() -> Bus {
        let mut config =
            ConfigSpace::new(Identity { vendor: 0x1AF4, device: 0x1042, class: 0x01_0000, subsystem: 2 });
        config.add_bar(
            0,
            Bar { space: Space::Io, address: 0xC000, size: 256, wide: false, prefetchable: false },
        );
        config.add_bar(
            1,
            Bar { space: Space::Memory, address: 0xD000_0000, size: 4096, wide: false, prefetchable: false },
        );
        config.add_bar(
            2,
            Bar { space: Space::Memory, address: 1 << 40, size: 1 << 30, wide: true, prefetchable: true },
        );
        let echo = Echo { config, written: Vec::new() };
        Bus::new(vec![Arc::new(Mutex::new(host_bridge::HostBridge::new())), Arc::new(Mutex::new(echo))])
    }

    fn read(bus: &Bus, device: u32, register: u32) -> u32 {
        bus.port_write(ADDRESS_PORT, &(ENABLE | device << 11 | register).to_le_bytes());
        let mut data = [0xFF; 4];
        bus.port_read(DATA_PORT, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(bus: &Bus, device: u32, register: u32, value: u32) {
        bus.port_write(ADDRESS_PORT, &(ENABLE | device << 11 | register).to_le_bytes());
        bus.port_write(DATA_PORT, &value.to_le_bytes());
    }

    fn bar_reads(bus: &Bus, space: Space, address: u64) -> u8 {
        let mut data = [0xFF; 4];
        bus.bar_read(space, address, &mut data);
        data[0]
    }

    #[test]
    fn identities_sizes_and_empty_slots() {
        let bus = bus();
        assert_eq!(read(&bus, 0, 8) >> 16, 0x0600, "Linux wants to see a host bridge");
        assert_eq!(read(&bus, 1, 0), 0x1042_1AF4);
        assert_eq!(read(&bus, 2, 0), !0);
        assert_eq!(read(&bus, 1, 1 << 24), !0, "no extended registers");
        assert_eq!(read(&bus, 1, 0x10), 0xC001);
        write(&bus, 1, 0x10, !0);
        assert_eq!(read(&bus, 1, 0x10), 0xFFFF_FF01);
        write(&bus, 1, 0x18, !0);
        write(&bus, 1, 0x1C, !0);
        assert_eq!((read(&bus, 1, 0x18), read(&bus, 1, 0x1C)), (0xC000_000C, !0));
    }

    #[test]
    fn bars_are_decoded_where_and_when_the_guest_says() {
        let bus = bus();
        assert_eq!(bar_reads(&bus, Space::Io, 0xC000), 0xFF, "decoding is off at power-on");
        write(&bus, 1, 4, 3);
        assert_eq!(bar_reads(&bus, Space::Io, 0xC010), 0);
        assert_eq!(bar_reads(&bus, Space::Memory, 0xD000_0FFC), 1);
        assert_eq!(bar_reads(&bus, Space::Memory, 0xD000_0FFD), 0xFF, "an access over the end hits nobody");
        assert_eq!(bar_reads(&bus, Space::Memory, (1 << 40) + 8), 2);
        write(&bus, 1, 0x10, 0xE000);
        assert_eq!((bar_reads(&bus, Space::Io, 0xC010), bar_reads(&bus, Space::Io, 0xE010)), (0xFF, 0));
    }

    #[test]
    fn functions_come_and_go() {
        let bus = bus();
        write(&bus, 1, 4, 3);
        let echo = bus.slot(1).unwrap();
        assert_eq!(bus.free_slot(), Some(2));
        bus.set(1, None);
        assert_eq!(
            (bus.free_slot(), read(&bus, 1, 0), bar_reads(&bus, Space::Io, 0xC000)),
            (Some(1), !0, 0xFF)
        );
        bus.set(31, Some(echo));
        assert_eq!((read(&bus, 31, 0), bar_reads(&bus, Space::Io, 0xC010)), (0x1042_1AF4, 0));
        bus.set(MAX_DEVICES, None);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in proptest::collection::vec((any::<bool>(), 0xCF0u16..0xD04, proptest::collection::vec(any::<u8>(), 1..9)), 1..60),
                            address in any::<u64>(), length in 1usize..9) {
            let bus = bus();
            write(&bus, 1, 4, 3);
            for (write, port, mut data) in accesses {
                let port = port.clamp(ADDRESS_PORT, LAST_DATA_PORT);
                if write { bus.port_write(port, &data) } else { bus.port_read(port, &mut data) }
            }
            let mut data = vec![0; length];
            for space in [Space::Io, Space::Memory] {
                bus.bar_read(space, address, &mut data);
                bus.bar_write(space, address, &data);
            }
            prop_assert_eq!(read(&bus, 1, 0), 0x1042_1AF4, "what is read-only stays");
        }
    }
}
