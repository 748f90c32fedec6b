//! Configuration space, BARs and MSI-X tables, abused.

use crate::cpu::{self, Random};

/// Device id of the entropy device.
pub const RNG: u16 = 0x1044;

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const COMMAND: u8 = 4;
const BAR0: u8 = 0x10;
const BAR1: u8 = 0x14;

/// Places for BARs: on each other, on ports and memory of others, at ends.
static PORTS: [u32; 10] = [0xC100, 0, 0x60, 0x3F8, 0x500, 0xCF8, 0xC080, 0xFF00, 0xFFFF_FF00, 0x1_0000];
static TABLES: [u32; 8] =
    [0xD000_1000, 0, 0x10_0000, 0xFEC0_0000, 0xFEE0_0000, 0xFFFF_F000, 0x400_0000, 0xD000_1800];

/// Reads a register of a device.
pub fn read(device: u8, register: u8) -> u32 {
    cpu::out32(ADDRESS, 1 << 31 | u32::from(device) << 11 | u32::from(register & 0xFC));
    cpu::in32(DATA)
}

/// Writes it.
pub fn write(device: u8, register: u8, value: u32) {
    cpu::out32(ADDRESS, 1 << 31 | u32::from(device) << 11 | u32::from(register & 0xFC));
    cpu::out32(DATA, value);
}

/// All devices but the host bridge.
pub fn devices() -> impl Iterator<Item = u8> {
    (1..32).filter(|device| read(*device, 0) != !0)
}

/// The device with this id.
pub fn find(id: u16) -> Option<u8> {
    devices().find(|device| read(*device, 0) >> 16 == u32::from(id))
}

/// The ports of a device, which it answers from now on.
pub fn ports(device: u8) -> u16 {
    write(device, COMMAND, 7);
    read(device, BAR0) as u16 & !3
}

/// Every register of every function of every bus, in every size and place, read and written.
pub fn configuration() {
    for bus in [0, 1, 255_u32] {
        for function in 0..=0xFF_u32 {
            for register in (0..256).step_by(if bus == 0 && function % 8 == 0 { 4 } else { 64 }) {
                cpu::out32(ADDRESS, 1 << 31 | bus << 16 | function << 8 | register);
                cpu::in32(DATA);
                cpu::in16(DATA + 1);
                cpu::in8(DATA + 3);
                // Over the end.
                cpu::in32(DATA + 2);
            }
        }
    }
    let mut random = Random(11);
    for round in 0..30_000 {
        let device = random.below(8) as u32;
        let register = random.below(256) as u32;
        // At times without the enable bit, or with the bits of extended registers.
        let extra = if round % 16 == 0 { random.next() as u32 & 0xFF00_0000 } else { 1 << 31 };
        match round % 11 {
            0 => cpu::out16(ADDRESS, random.next() as u16),
            1 => cpu::out8(ADDRESS + random.below(4) as u16, random.next() as u8),
            _ => cpu::out32(ADDRESS, extra | device << 11 | register),
        }
        let (port, value) = (DATA + random.below(4) as u16, random.value());
        match random.below(6) {
            0 => cpu::out8(port, value as u8),
            1 => cpu::out16(port, value as u16),
            2 => cpu::out32(port, value as u32),
            3 => _ = cpu::in8(port),
            4 => _ = cpu::in16(port),
            _ => _ = cpu::in32(port),
        }
    }
    restore();
}

/// Puts what `configuration` and `bars` have moved to places of its own.
fn restore() {
    for device in devices() {
        write(device, COMMAND, 0);
        write(device, BAR0, 0xC000 + 256 * u32::from(device));
        write(device, BAR1, 0xD000_0000 + 4096 * u32::from(device));
    }
}

/// All BARs at the same place, over other devices, over RAM, over the end, and moved while a driver uses the device.
pub fn bars() {
    for (round, (ports, table)) in PORTS.iter().zip(TABLES.iter().cycle()).cycle().take(400).enumerate() {
        for device in devices() {
            write(device, BAR0, *ports);
            write(device, BAR1, *table);
            write(device, COMMAND, round as u32 % 8);
            if round % 3 == 0 {
                write(device, COMMAND, 7);
            }
            // Start it in the middle: doorbells go where the BAR is.
            if let Ok(base) = u16::try_from(*ports)
                && round % 5 == 0
                && base >= 0x500
                && base != 0xCF8
            {
                crate::devices::start(base, 0x20_0000);
            }
        }
        if *ports >= 0xC000 && *ports < 0xFF00 {
            cpu::in32(*ports as u16 + 20);
            cpu::out16(*ports as u16 + 0x40, 0);
        }
        for offset in [0, 0xFF0, 0xFFE, 0x1000] {
            let address = *table as usize + offset;
            if (0x400_0000..0xFEE0_0000).contains(&address) {
                cpu::load::<u32>(address);
                cpu::store(address, round as u32);
            }
        }
    }
    restore();
}

/// Tables full of nonsense, and interrupts by them.
///
/// What could hit this CPU has a fixed vector, which stays pending because interrupts are off: it has no handlers.
pub fn messages() {
    let mut random = Random(13);
    for device in devices() {
        let base = ports(device);
        let table = read(device, BAR1) as usize & !0xF;
        for round in 0..3000 {
            let offset = random.below(4096);
            match random.below(4) {
                0 => cpu::store(table + offset, random.next() as u8),
                1 => cpu::store(table + (offset & !1), random.next() as u16),
                2 => _ = cpu::load::<u64>(table + (offset & !7)),
                _ => entry(table, offset, &mut random),
            }
            if round % 50 == 0 {
                // Message control: enable and mask in all four ways.
                write(device, 0x40, random.next() as u32);
                cpu::out16(base + 16, random.next() as u16 & 7);
                for queue in 0..3 {
                    cpu::out16(base + 22, queue);
                    cpu::out16(base + 26, random.next() as u16 & 7);
                }
                crate::devices::start(base, 0x20_0000);
                crate::devices::kick_all(base);
                cpu::out8(base + 20, 0);
            }
        }
        write(device, 0x40, 0);
    }
}

fn entry(table: usize, offset: usize, random: &mut Random) {
    let at = table + (offset & !15);
    let address = if random.below(2) == 0 {
        0xFEE0_0000 | random.next() & 0xF_FFFC
    } else {
        random.next() & !(0xFFF << 20)
    };
    cpu::store(at, address);
    // A fixed vector above the 32 of exceptions.
    cpu::store(at + 8, 0x20 + random.below(0xE0) as u32);
    cpu::store(at + 12, random.below(2) as u32);
}
