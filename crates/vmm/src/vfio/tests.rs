//! A hostile guest over a device that records what reaches it.

use super::bars::{Bars, Slots, mappable};
use super::config::{self, MsixPlace, Shown};
use super::device::{CONFIG, Region};
use super::function::{HostFunction, parts};
use super::vectors::{Lines, Message, Vectors, lead};
use super::{Hardware, VfioError};
use crate::bus::lock;
use crate::memory::{ADDRESSABLE_END, PAGE};
use crate::pci::Function;
use crate::pci::config::{ConfigSpace, SIZE};
use crate::pci::msix::{ENABLED, FUNCTION_MASK};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// What reached the device, KVM's slots and its interrupts.
#[derive(Default)]
struct Seen {
    reads: Vec<(usize, u64, usize)>,
    writes: Vec<(usize, u64, Vec<u8>)>,
    connected: usize,
    slots: BTreeMap<u32, (u64, u64, u64)>,
    lines: BTreeMap<u32, Message>,
}

#[derive(Clone, Default)]
struct Mock(Arc<Mutex<Seen>>);

impl Hardware for Mock {
    fn read(&self, region: usize, offset: u64, data: &mut [u8]) {
        lock(&self.0).reads.push((region, offset, data.len()));
        data.fill(0xD0);
    }

    fn write(&self, region: usize, offset: u64, data: &[u8]) {
        lock(&self.0).writes.push((region, offset, data.to_vec()));
    }

    fn connect(&self, events: &[EventFd]) -> io::Result<()> {
        lock(&self.0).connected = events.len();
        Ok(())
    }

    fn disconnect(&self) {
        lock(&self.0).connected = 0;
    }
}

impl Slots for Mock {
    fn show(&self, slot: u32, guest: u64, host: u64, size: u64) -> bool {
        let slots = &mut lock(&self.0).slots;
        let apart = |(start, _, length): &(u64, u64, u64)| guest + size <= *start || start + length <= guest;
        let free = slots.values().all(apart) && !slots.contains_key(&slot);
        if free {
            slots.insert(slot, (guest, host, size));
        }
        free
    }

    fn hide(&self, slot: u32) {
        assert!(lock(&self.0).slots.remove(&slot).is_some(), "a slot that is not shown");
    }
}

impl Lines for Mock {
    fn open(&self, line: u32, message: Message, _event: &EventFd) -> io::Result<()> {
        assert_eq!(lock(&self.0).lines.insert(line, message), None, "a line that is open");
        Ok(())
    }

    fn close(&self, line: u32, _event: &EventFd) {
        assert!(lock(&self.0).lines.remove(&line).is_some(), "a line that is not open");
    }
}

const BAR0_SIZE: u64 = 0x4000;
const BAR3_SIZE: u64 = 0x8000;

/// The configuration space of an adapter: 64-bit BARs 0 and 3, MSI-X at 0x70 with 3 vectors in BAR 3, PCI Express at 0xA0.
fn adapter() -> ([u8; SIZE], Vec<Region>) {
    let mut bytes = [0; SIZE];
    let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
    put(0, &[0x86, 0x80, 0xCA, 0x10]);
    put(6, &[0x10, 0]);
    put(8, &[7, 0, 0, 2]);
    put(0x10, &[0x0C]);
    put(0x1C, &[0x04]);
    put(0x2C, &[0xF4, 0x1A, 0x00, 0x11]);
    put(0x34, &[0x70]);
    put(0x3D, &[1]);
    put(0x70, &[0x11, 0xA0, 2, 0, 0x03, 0x20, 0, 0, 0x03, 0x30, 0, 0]);
    put(0xA0, &[0x10, 0, 2, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    let mut regions = vec![Region::default(); CONFIG + 1];
    regions[0].size = BAR0_SIZE;
    regions[3].size = BAR3_SIZE;
    (bytes, regions)
}

fn unfit(why: &'static str) -> VfioError {
    VfioError::Unfit { address: "0000:01:10.0".into(), why }
}

fn shown(bytes: &[u8; SIZE], regions: &[Region]) -> Result<Shown, VfioError> {
    let mut next = 1 << 40;
    config::build(bytes, regions, unfit, |size, wide| {
        let address = if wide { next } else { 0xD100_0000 };
        next += size.next_power_of_two().max(1 << 21);
        Some(address)
    })
}

fn function() -> (HostFunction, Mock) {
    let mock = Mock::default();
    let (bytes, regions) = adapter();
    let shown = shown(&bytes, &regions).unwrap();
    let mut bars = Bars::new(Box::new(mock.clone()));
    for (bar, range) in parts(&shown) {
        bars.add(0, bar, &range, (bar as u64) << 32 | range.start);
    }
    let vectors = Vectors::new(shown.msix.vectors, 0, Arc::new(mock.clone())).unwrap();
    let function = HostFunction::new("0000:01:10.0", Box::new(mock.clone()), shown, vectors, bars);
    (function, mock)
}

fn read(config: &ConfigSpace, at: usize) -> u32 {
    let mut word = [0; 4];
    config.read(at, &mut word);
    u32::from_le_bytes(word)
}

fn write(function: &mut HostFunction, at: usize, data: &[u8]) {
    function.config().write(at, data);
    function.config_written(at, data.len());
}

#[test]
fn the_guest_sees_identity_bars_msix_and_express_and_nothing_else() {
    let (mut function, _) = function();
    let config = function.config();
    assert_eq!(
        (read(config, 0), read(config, 8), read(config, 0x2C)),
        (0x10CA_8086, 0x0200_0007, 0x1100_1AF4)
    );
    assert_eq!(read(config, 0x3C), 0, "no INTx");
    assert_eq!((read(config, 0x10), read(config, 0x14)), (0xC, 1 << 8));
    assert_eq!(read(config, 0x1C) & 0xF, 4, "not prefetchable, 64 bits");
    let first = read(config, 0x34) as usize & 0xFF;
    assert_eq!((read(config, first) & 0xFF, read(config, first) >> 16), (0x11, 2));
    assert_eq!((read(config, first + 4), read(config, first + 8)), (0x2003, 0x3003));
    let second = read(config, first) as usize >> 8 & 0xFF;
    assert_eq!(
        read(config, second) & 0xFF_FFFF,
        0x92_0010,
        "an endpoint of the root complex, the last of the list"
    );
    assert_eq!(read(config, second + 4), 0xEFFF_FFFF, "no function level reset");
}

#[test]
fn only_bus_master_reaches_the_devices_configuration() {
    let (mut function, mock) = function();
    assert_eq!(lock(&mock.0).writes, [(CONFIG, 4, vec![0x02, 0x04])], "memory, no INTx, from the start");
    for at in (0..SIZE).step_by(4) {
        write(&mut function, at, &[0xFF; 4]);
    }
    write(&mut function, 4, &[0, 0]);
    let commands = lock(&mock.0).writes.clone();
    assert_eq!(commands[1..], [(CONFIG, 4, vec![0x06, 0x04]), (CONFIG, 4, vec![0x02, 0x04])]);
}

#[test]
fn pages_follow_their_bars() {
    let (mut function, mock) = function();
    assert!(lock(&mock.0).slots.is_empty(), "decoding is off at power-on");
    write(&mut function, 4, &[2, 0]);
    let places = |mock: &Mock| lock(&mock.0).slots.values().copied().collect::<Vec<_>>();
    let high = (1 << 40) + (1 << 21);
    // The pages of the table and of the pending bits, 0x2000 and 0x3000 of BAR 3, are not among them.
    let third = 3 << 32;
    let at_first =
        [(1 << 40, 0, BAR0_SIZE), (high, third, 0x2000), (high + 0x4000, third + 0x4000, BAR3_SIZE - 0x4000)];
    assert_eq!(places(&mock), at_first);
    write(&mut function, 0x10, &0xE000_0000_u32.to_le_bytes());
    write(&mut function, 0x14, &[0; 4]);
    assert_eq!(places(&mock)[0], (0xE000_0000, 0, BAR0_SIZE));
    write(&mut function, 0x14, &[0xFF; 4]);
    assert_eq!(places(&mock).len(), 2, "beyond what a guest can address is nothing");
    write(&mut function, 4, &[0, 0]);
    assert!(places(&mock).is_empty());
}

#[test]
fn a_vector_is_open_while_enabled_and_unmasked() {
    let (mut function, mock) = function();
    let control = read(function.config(), 0x34) as usize + 3;
    function.write_bar(3, 0x2010, &0xFEE0_0000_u64.to_le_bytes());
    function.write_bar(3, 0x2018, &[0x41, 0, 0, 0]);
    function.write_bar(3, 0x201C, &[0; 4]);
    assert_eq!(lock(&mock.0).connected, 0);
    write(&mut function, control, &[ENABLED]);
    assert_eq!(lock(&mock.0).connected, 3);
    let lines = |mock: &Mock| lock(&mock.0).lines.values().copied().collect::<Vec<_>>();
    assert_eq!(lines(&mock), [(0xFEE0_0000, 0x41)]);
    function.write_bar(3, 0x2018, &[0x42, 0, 0, 0]);
    assert_eq!(lines(&mock), [(0xFEE0_0000, 0x42)]);
    write(&mut function, control, &[ENABLED | FUNCTION_MASK]);
    assert!(lines(&mock).is_empty());
    let mut entry = [0; 8];
    function.read_bar(3, 0x2018, &mut entry);
    assert_eq!(entry, [0x42, 0, 0, 0, 0, 0, 0, 0]);
    write(&mut function, control, &[0]);
    assert_eq!(lock(&mock.0).connected, 0);
}

#[test]
fn a_message_that_kvm_refuses_spoils_no_other() {
    // As KVM with KVM_CAP_X2APIC_API, which wants the low byte of the upper half of an address to be zero.
    let set =
        |routes: &BTreeMap<u32, Message>| match routes.values().all(|(address, _)| address >> 32 & 0xFF == 0)
        {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
    let (good, bad) = ((0xFEE0_0000, 0x41), (0x1_FEE0_0000, 0x41));
    let mut routes = BTreeMap::new();
    assert!(lead(&mut routes, 24, bad, set).is_err());
    assert!(lead(&mut routes, 24, bad, set).is_err(), "the second time too");
    assert!(lead(&mut routes, 25, good, set).is_ok(), "another line");
    assert!(lead(&mut routes, 25, bad, set).is_err());
    assert_eq!(routes, BTreeMap::from([(25, good)]), "what KVM has");
    assert!(lead(&mut routes, 25, good, |_| panic!("nothing changes")).is_ok());
}

#[test]
fn what_waits_while_masked_is_a_pending_bit() {
    let (bytes, regions) = adapter();
    let mock = Mock::default();
    let mut vectors = Vectors::new(3, 0, Arc::new(mock.clone())).unwrap();
    vectors.control(&mock, ENABLED).unwrap();
    let mut bits = [0xFF; 8];
    vectors.read_pending(0, &mut bits);
    assert_eq!(bits, [0; 8]);
    vectors.signal_for_test(2);
    vectors.read_pending(0, &mut bits);
    assert_eq!(bits, [4, 0, 0, 0, 0, 0, 0, 0]);
    vectors.control(&mock, 0).unwrap();
    vectors.read_pending(0, &mut bits);
    assert_eq!(bits, [0; 8], "the next driver starts afresh");
    assert!(shown(&bytes, &regions).is_ok());
}

#[test]
fn devices_that_cannot_be_shown_are_refused() {
    let (good, regions) = adapter();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        shown(&bytes, &regions).unwrap_err().to_string()
    };
    assert!(with(0x70, 0x05).contains("no MSI-X"));
    assert!(with(6, 0).contains("no MSI-X"), "without a list of capabilities");
    assert!(with(0x76, 0x10).contains("outside"), "a table beyond its BAR");
    assert!(with(0x74, 0x02).contains("outside"), "a table in a BAR that is not there");
    let mut odd = regions.clone();
    odd[0].size = 0x3000;
    assert!(shown(&good, &odd).unwrap_err().to_string().contains("no size that a BAR can have"));
}

#[test]
fn a_bar_smaller_than_a_page_is_not_mapped() {
    let (bytes, regions) = adapter();
    let msix = shown(&bytes, &regions).unwrap().msix;
    assert!(mappable(0, 256, &msix).is_empty());
    let whole = MsixPlace { table: (0, 0..16), pending: (0, PAGE - 8..PAGE), ..msix };
    assert!(mappable(0, PAGE, &whole).is_empty());
}

proptest! {
    #[test]
    fn no_configuration_space_of_a_device_panics(random in prop::collection::vec(any::<u8>(), SIZE),
                                                sizes in prop::collection::vec(0u32..50, CONFIG + 1)) {
        let mut bytes = [0; SIZE];
        bytes.copy_from_slice(&random);
        bytes[6] |= 0x10;
        let regions: Vec<_> = sizes.iter().map(|bits| Region { size: 1 << bits >> 1, ..Region::default() }).collect();
        if let Ok(shown) = shown(&bytes, &regions) {
            for (bar, range) in parts(&shown) {
                let size = shown.config.bar(bar).map_or(0, |bar| bar.size);
                prop_assert!(range.start % PAGE == 0 && range.end % PAGE == 0 && range.end <= size);
                for (at, hole) in [&shown.msix.table, &shown.msix.pending] {
                    prop_assert!(*at != bar || range.end <= hole.start || hole.end <= range.start);
                }
            }
        }
    }

    #[test]
    fn whatever_the_guest_does_stays_inside(accesses in prop::collection::vec(
        (0u8..4, prop_oneof![0usize..SIZE, 0x2000usize..0x3040], prop::collection::vec(any::<u8>(), 1..9), any::<bool>()), 1..80)) {
        let (mut function, mock) = function();
        for (kind, at, mut data, third) in accesses {
            let (bar, room) = if third { (3, BAR3_SIZE) } else { (0, BAR0_SIZE) };
            let offset = (at as u64).min(room - data.len() as u64);
            match kind {
                0 => {
                    data.truncate(4.min(SIZE - at.min(SIZE - 1)));
                    write(&mut function, at.min(SIZE - 1), &data);
                }
                1 => function.read_bar(bar, offset, &mut data),
                _ => function.write_bar(bar, offset, &data),
            }
        }
        let seen = lock(&mock.0);
        for (region, at, length) in seen.reads.iter().copied().chain(seen.writes.iter().map(|(r, at, d)| (*r, *at, d.len()))) {
            let end = at + length as u64;
            match region {
                CONFIG => prop_assert!(at == 4 && length == 2),
                0 => prop_assert!(end <= BAR0_SIZE),
                3 => prop_assert!(end <= 0x2000 || at >= 0x2030 && (end <= 0x3000 || at >= 0x3008) && end <= BAR3_SIZE),
                _ => prop_assert!(false, "region {region}"),
            }
        }
        prop_assert!(seen.connected == 0 || seen.connected == 3);
        prop_assert!(seen.lines.keys().all(|line| (24..27).contains(line)));
        for (guest, host, size) in seen.slots.values() {
            prop_assert!(guest + size <= ADDRESSABLE_END);
            let offset = host & 0xFFFF_FFFF;
            prop_assert!(host >> 32 == 0 || offset + size <= 0x2000 || offset >= 0x4000);
        }
        let config = function.config();
        prop_assert_eq!((read(config, 0), read(config, 0x2C)), (0x10CA_8086, 0x1100_1AF4));
    }
}
