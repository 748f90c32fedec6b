//! A guest at its ports and at addresses without memory: configuration space, BARs wherever it moves them, MSI-X tables, registers
//! of devices up to requests in their queues, the UART, the IOAPIC.
#![no_main]

use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::collections::HashSet;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm::bus::{Bus, Outcome, lock};
use vmm::event_loop::Source;
use vmm::legacy::ioapic::{self, IoApic};
use vmm::legacy::stamps::Stamps;
use vmm::legacy::uart::{Line, Uart};
use vmm::pci::host_bridge::HostBridge;
use vmm::pci::msix::MessageSink;
use vmm::pci::{self, Slot};
use vmm::virtio::mock::devices::{Kind, bench};
use vmm::virtio::transport::{Doorbells, Host, Places, VirtioPci};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of RAM.
const RAM: usize = 1 << 20;
/// Devices that need neither threads nor a directory, in slots 1 to 4.
const DEVICES: [Kind; 4] = [Kind::Rng, Kind::Console, Kind::Net, Kind::Vsock];
/// Where their BARs are at power-on, as `machine/plugs.rs` places them.
const PORTS: u16 = 0xC000;
const TABLES: u32 = 0xD000_0000;

struct Nobody;

impl MessageSink for Nobody {
    fn send(&self, _: u64, _: u32) {}
}

impl Line for Nobody {
    fn pulse(&self) {}
}

/// Doorbells as KVM has them: none twice, and only one that is there can go.
#[derive(Default)]
struct Bells(Mutex<HashSet<(u16, i32)>>);

impl Doorbells for Bells {
    fn attach(&self, port: u16, event: &EventFd) -> io::Result<()> {
        let mut bells = lock(&self.0);
        if bells.iter().any(|(other, _)| *other == port) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        bells.insert((port, event.as_raw_fd()));
        Ok(())
    }

    fn detach(&self, port: u16, event: &EventFd) -> io::Result<()> {
        if lock(&self.0).remove(&(port, event.as_raw_fd())) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    fuzz::bound_files();
    let mut bytes = Bytes(bytes);
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM)]).expect("memory");
    let (bells, mut functions, mut hosts) = (Arc::new(Bells::default()), Vec::new(), Vec::new());
    for (index, kind) in DEVICES.into_iter().enumerate() {
        let bench = bench(kind, std::path::Path::new("/")).expect("files");
        let host = Host { messages: Arc::new(Nobody), doorbells: bells.clone(), memory: memory.clone() };
        let places = Places { ports: PORTS + 256 * index as u16, msix: TABLES + 4096 * index as u32 };
        let function = VirtioPci::new(bench.device, host, places).expect("it fits");
        functions.push(Arc::new(Mutex::new(function)));
        hosts.push(bench.host);
    }
    let bridge: Slot = Arc::new(Mutex::new(HostBridge::new()));
    let slots =
        std::iter::once(bridge).chain(functions.iter().map(|function| function.clone() as Slot)).collect();
    let uart =
        Uart::new(Arc::new(Nobody), fuzz::memory_file(), EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
    let bus = Bus {
        uart: Some(Arc::new(Mutex::new(uart))),
        ioapic: Some(Arc::new(Mutex::new(IoApic::new(Arc::new(Nobody))))),
        stamps: Arc::new(Stamps::new(Instant::now())),
        pci: Arc::new(pci::Bus::new(slots)),
    };
    for _ in 0..400 {
        let Some(kind) = bytes.byte() else { break };
        access(&bus, kind, &mut bytes, &memory);
        match kind >> 4 {
            14 => functions.iter().for_each(|function| serve(function)),
            15 => hosts[usize::from(kind & 3)](bytes.take(20)),
            _ => {}
        }
    }
    functions.iter().for_each(|function| serve(function));
    for (index, function) in functions.iter().enumerate() {
        assert_eq!(identity(&bus, index as u32 + 1) & 0xFFFF, 0x1AF4, "what is read-only stays");
        lock(function).unplug();
    }
    assert!(lock(&bells.0).is_empty(), "a doorbell is left behind");
});

/// One access of a vCPU, or a store to RAM.
fn access(bus: &Bus, kind: u8, bytes: &mut Bytes<'_>, memory: &GuestMemoryMmap) {
    let size = 1 << (kind & 3);
    let mut data = [0; 8];
    let port = |bus: &Bus, port: u16, data: &mut [u8]| {
        if kind & 4 == 0 {
            bus.port_read(port, data)
        } else {
            assert!(bus.port_write(port, data) == Outcome::Done || port == 0x64)
        }
    };
    let mut value =
        |bytes: &mut Bytes<'_>| data[..size].copy_from_slice(&bytes.word64().to_le_bytes()[..size]);
    match kind >> 4 {
        // The registers of a device where they are at power-on.
        0..=3 => {
            let at = PORTS + 256 * u16::from(kind >> 4) + u16::from(bytes.byte().unwrap_or(0));
            value(bytes);
            port(bus, at, &mut data[..size.min(4)]);
        }
        4..=6 => {
            let address = 1_u32 << 31 | u32::from(bytes.word16());
            let _ = bus.port_write(pci::ADDRESS_PORT, &address.to_le_bytes());
            value(bytes);
            port(bus, 0xCFC + u16::from(kind >> 3 & 1), &mut data[..size.min(4)]);
        }
        7 => {
            let at = bytes.word16();
            value(bytes);
            port(bus, at, &mut data[..size.min(4)]);
        }
        8..=11 => {
            let base = [u64::from(TABLES), ioapic::ADDRESS, 0, 1 << 40][usize::from(kind >> 4 & 3)];
            let at = if base == 0 { bytes.word64() } else { base + u64::from(bytes.word16()) };
            value(bytes);
            if kind & 4 == 0 {
                bus.mmio_read(at, &mut data[..size])
            } else {
                bus.mmio_write(at, &data[..size])
            }
        }
        12 | 13 => {
            let at = u64::from(bytes.word16());
            let _ = memory.write(bytes.take(usize::from(kind & 15) * 4), GuestAddress(at));
        }
        _ => {}
    }
}

fn identity(bus: &Bus, device: u32) -> u32 {
    let _ = bus.port_write(pci::ADDRESS_PORT, &(1_u32 << 31 | device << 11).to_le_bytes());
    let mut id = [0; 4];
    bus.port_read(0xCFC, &mut id);
    u32::from_le_bytes(id)
}

/// What the event loop does, once: all that is ready by now.
fn serve(function: &Mutex<VirtioPci>) {
    let mut function = lock(function);
    for interest in function.interests() {
        if fuzz::is_ready(interest.fd, interest.readable, interest.writable) {
            function.ready(interest.ready);
        }
    }
}
