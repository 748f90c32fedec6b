//! The transport with a device that does nothing, driven as a driver would, and as one never should.

use super::*;
use crate::pci::Function;
use crate::virtio::device::SharedMemory;
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::GuestAddress;

#[derive(Default)]
struct Silent(AtomicU32);
impl MessageSink for Silent {
    fn send(&self, _address: u64, _data: u32) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Bells(Mutex<Vec<u16>>);
impl Doorbells for Bells {
    fn attach(&self, port: u16, _event: &EventFd) -> io::Result<()> {
        self.0.lock().unwrap().push(port);
        Ok(())
    }
    fn detach(&self, port: u16, _event: &EventFd) -> io::Result<()> {
        self.0.lock().unwrap().retain(|p| *p != port);
        Ok(())
    }
}

#[derive(Default)]
struct Null {
    active: Option<Activation>,
    kicks: Arc<AtomicU32>,
    resets: Arc<AtomicU32>,
}

impl Device for Null {
    fn name(&self) -> &str {
        "null"
    }
    fn kind(&self) -> u32 {
        26
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }
    fn features(&self) -> u64 {
        1 << 29 | 3
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }
    fn shared_memory(&self) -> Option<SharedMemory> {
        Some(SharedMemory { id: 0, address: 1 << 33, size: 3 << 20 })
    }
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.active = Some(activation);
        Ok(())
    }
    fn kick(&mut self, index: u16) -> Result<(), DeviceError> {
        self.kicks.fetch_add(1, Ordering::Relaxed);
        if index == 1 {
            return Err(DeviceError { device: "null".to_string(), reason: "test".to_string() });
        }
        if let Some(active) = &self.active {
            active.interrupt.queue(index);
        }
        Ok(())
    }
    fn reset(&mut self) {
        self.active = None;
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    function: VirtioPci,
    messages: Arc<Silent>,
    bells: Arc<Bells>,
    kicks: Arc<AtomicU32>,
    resets: Arc<AtomicU32>,
}

fn bench() -> Bench {
    let (messages, bells, device) =
        (Arc::new(Silent::default()), Arc::new(Bells::default()), Null::default());
    let (kicks, resets) = (device.kicks.clone(), device.resets.clone());
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let host = Host { messages: messages.clone(), doorbells: bells.clone(), memory };
    let places = Places { ports: 0xC100, msix: 0xD000_1000 };
    Bench {
        function: VirtioPci::new(Box::new(device), host, places).unwrap(),
        messages,
        bells,
        kicks,
        resets,
    }
}

impl Bench {
    fn read(&mut self, offset: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        self.function.read_bar(0, offset, &mut data[..length]);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, length: usize, value: u64) {
        self.function.write_bar(0, offset, &value.to_le_bytes()[..length]);
    }

    fn config(&mut self, offset: usize, data: &[u8]) {
        self.function.config().write(offset, data);
        self.function.config_written(offset, data.len());
    }

    /// Brings the device up with queue 0 at `rings`.
    fn drive(&mut self, rings: u64) {
        self.config(4, &[7, 0]);
        self.write(20, 1, 3);
        self.write(12, 4, 1 << 29 | 1);
        self.write(8, 4, 1);
        self.write(12, 4, 1);
        self.write(20, 1, 11);
        assert_eq!(self.read(20, 1), 11);
        self.write(26, 2, 1);
        for (at, address) in [(32, rings), (40, rings.wrapping_add(0x1000)), (48, rings.wrapping_add(0x2000))]
        {
            self.write(at, 8, address);
        }
        self.write(28, 2, 1);
        self.write(20, 1, 15);
    }
}

#[test]
fn a_driver_finds_features_queues_and_configuration() {
    let mut bench = bench();
    assert_eq!(bench.read(4, 4), 1 << 29 | 3);
    bench.write(0, 4, 1);
    assert_eq!(bench.read(4, 4), 1, "VERSION_1");
    assert_eq!(bench.read(18, 2), 2);
    bench.write(22, 2, 1);
    assert_eq!((bench.read(24, 2), bench.read(30, 2)), (8, 1));
    bench.write(22, 2, 2);
    assert_eq!(bench.read(24, 2), 0, "no such queue");
    assert_eq!(bench.read(0x85, 1), 5);
}

#[test]
fn ready_kick_interrupt_failure_reset() {
    let mut bench = bench();
    bench.drive(0x4000);
    assert_eq!(*bench.bells.0.lock().unwrap(), [0xC140]);
    assert_eq!(bench.function.interests().len(), 1);
    bench.function.interrupt.msix.control(crate::pci::msix::ENABLED);
    bench.function.write_bar(1, 16 + 12, &[0; 4]);
    bench.write(0x40, 2, 0);
    bench.function.ready(Ready::Kick(0));
    assert_eq!((bench.kicks.load(Ordering::Relaxed), bench.messages.0.load(Ordering::Relaxed)), (1, 1));
    bench.config(0x10, &0xC300u32.to_le_bytes());
    assert_eq!(*bench.bells.0.lock().unwrap(), [0xC340], "doorbells follow the BAR");
    bench.function.ready(Ready::Kick(1));
    assert_eq!(bench.read(20, 1), 0x4F, "DEVICE_NEEDS_RESET");
    assert!(bench.function.interests().is_empty());
    bench.write(20, 1, 0);
    assert_eq!((bench.read(20, 1), bench.resets.load(Ordering::Relaxed)), (0, 1));
    bench.drive(0x4000);
    assert_eq!(bench.read(20, 1), 15);
}

#[test]
fn an_unplugged_device_cannot_be_started() {
    let mut bench = bench();
    bench.drive(0x4000);
    assert!(bench.function.is_active());
    bench.function.unplug();
    assert_eq!((bench.function.is_active(), bench.resets.load(Ordering::Relaxed)), (false, 1));
    assert!(bench.bells.0.lock().unwrap().is_empty());
    // A vCPU that was on its way when it went.
    bench.write(20, 1, 15);
    assert!(!bench.function.is_active() && bench.function.interests().is_empty());
}

#[test]
fn the_window_is_where_it_is() {
    let mut bench = bench();
    let config = bench.function.config();
    let word = |config: &ConfigSpace, at: usize| {
        let mut bytes = [0; 4];
        config.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    let mut at = word(config, 0x34) as usize & 0xFF;
    while word(config, at) as u8 != 0x14 {
        at = word(config, at) as usize >> 8 & 0xFF;
        assert_ne!(at, 0, "no Enhanced Allocation");
    }
    assert_eq!(word(config, at) >> 16, 1, "one entry");
    let entry: Vec<u32> = (0..5).map(|index| word(config, at + 4 + 4 * index)).collect();
    // 64-bit base and last offset, memory in place of BAR 2.
    assert_eq!(entry, [0x8000_0024, 2, ((3 << 20) - 4) | 2, 2, 0]);
    config.write(at + 8, &[0xFF; 4]);
    config.write(0x18, &[0xFF; 8]);
    assert_eq!((word(config, at + 8), word(config, 0x18), word(config, 0x1C)), (2, 0, 0));
}

#[test]
fn rings_outside_of_memory_are_not_used() {
    for rings in [0xF_F000, 1 << 40, u64::MAX - 0xFFF, 0x4001] {
        let mut bench = bench();
        bench.drive(rings);
        assert_eq!(bench.read(20, 1), 0x4F, "{rings:#x}");
        assert_eq!(bench.kicks.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn unknown_features_are_refused() {
    let mut bench = bench();
    bench.write(12, 4, 1 << 5);
    bench.write(20, 1, 11);
    assert_eq!(bench.read(20, 1), 3);
}

#[test]
fn configuration_space_alone_reaches_the_registers() {
    let mut bench = bench();
    let at = bench.function.layout.pci_access;
    bench.config(at + 4, &[0]);
    bench.config(at + 8, &18u32.to_le_bytes());
    bench.config(at + 12, &2u32.to_le_bytes());
    bench.function.config_read(at + 16, 2);
    let mut queues = [0; 2];
    bench.function.config().read(at + 16, &mut queues);
    assert_eq!(u16::from_le_bytes(queues), 2);
}

proptest! {
    #[test]
    fn no_access_panics(accesses in proptest::collection::vec((0u8..5, 0usize..4, 0u64..300, 1usize..9, any::<u64>()), 1..80)) {
        let mut bench = bench();
        bench.config(4, &[7, 0]);
        for (kind, bar, offset, length, value) in accesses {
            let mut data = value.to_le_bytes();
            match kind {
                0 => bench.function.write_bar(bar, offset, &data[..length]),
                1 => bench.function.read_bar(bar, offset, &mut data[..length]),
                2 => bench.config(offset as usize, &data[..length.min(4)]),
                3 => bench.function.config_read(offset as usize, length),
                _ => bench.function.ready(Ready::Kick(value as u16 % 4)),
            }
            bench.function.interests();
        }
    }

    #[test]
    fn no_queue_setup_panics(rings in any::<u64>(), size in any::<u16>(), select in 0u64..4) {
        let mut bench = bench();
        bench.write(22, 2, select);
        bench.write(24, 2, u64::from(size));
        bench.write(22, 2, 0);
        bench.drive(rings & !7);
    }
}

#[test]
fn a_driver_that_lets_go_is_waited_for_until_it_has_seen_the_end() {
    let mut bench = bench();
    bench.drive(0x1000);
    bench.function.withdraw();
    assert!(bench.function.is_active());
    bench.write(20, 1, 0);
    // Linux reads the status until it is 0; where nothing answers, all bits are set for ever.
    assert!(bench.function.is_active() && bench.resets.load(Ordering::Relaxed) == 1);
    assert_eq!(bench.read(20, 1), 0);
    assert!(!bench.function.is_active());
    // What was taken away does not come back.
    [1, 3, 11, 15].into_iter().for_each(|status| bench.write(20, 1, status));
    assert!(!bench.function.is_active());
    assert_eq!(bench.read(20, 1), 0);
}
