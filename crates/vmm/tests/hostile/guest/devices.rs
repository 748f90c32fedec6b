//! Registers and queues of virtio devices, abused.

use crate::cpu::{self, Random};
use crate::pci;

/// Where queues lie, each in 64 KiB; and what their descriptors may name.
const QUEUES: usize = 0x20_0000;
const DATA: usize = 0x28_0000;
/// Bytes of RAM.
const RAM: usize = 64 << 20;

/// Offsets in BAR 0 (virtio 1.2, 4.1.4.3).
const SELECT: u16 = 8;
const FEATURES: u16 = 12;
const STATUS: u16 = 20;
const QUEUE_SELECT: u16 = 22;
const QUEUE_SIZE: u16 = 24;
const QUEUE_ENABLE: u16 = 28;
const QUEUE_ADDRESSES: u16 = 32;
const DOORBELLS: u16 = 0x40;
const NEEDS_RESET: u8 = 0x40;
/// Queues that are set up, where there are as many.
const MOST_QUEUES: u16 = 3;
/// Descriptors that are filled in each table; chains lead to others, too.
const DESCRIPTORS: usize = 16;

fn write64(port: u16, value: u64) {
    cpu::out32(port, value as u32);
    cpu::out32(port + 4, (value >> 32) as u32);
}

/// Brings a device up with all its queues from `memory` on. Says whether it took them.
pub fn start(base: u16, memory: usize) -> bool {
    cpu::out8(base + STATUS, 0);
    cpu::out8(base + STATUS, 3);
    cpu::out32(base + SELECT, 0);
    cpu::out32(base + FEATURES, 0);
    cpu::out32(base + SELECT, 1);
    cpu::out32(base + FEATURES, 1);
    cpu::out8(base + STATUS, 11);
    for queue in 0..MOST_QUEUES {
        cpu::out16(base + QUEUE_SELECT, queue);
        let rings = memory + usize::from(queue) * 0x1_0000;
        for (index, offset) in [0, 0x8000, 0xC000].into_iter().enumerate() {
            write64(base + QUEUE_ADDRESSES + 8 * index as u16, (rings + offset) as u64);
        }
        cpu::out16(base + QUEUE_ENABLE, 1);
    }
    cpu::out8(base + STATUS, 15);
    cpu::in8(base + STATUS) == 15
}

/// Rings all doorbells.
pub fn kick_all(base: u16) {
    (0..MOST_QUEUES).for_each(|queue| cpu::out16(base + DOORBELLS + 2 * queue, queue));
}

/// Any value in any register, in any order, in any size.
pub fn registers() {
    let mut random = Random(17);
    for device in pci::devices() {
        let base = pci::ports(device);
        for round in 0..2500 {
            let port = base + random.below(256) as u16;
            match random.below(6) {
                0 => cpu::out8(port, random.value() as u8),
                1 => cpu::out16(port, random.value() as u16),
                2 => cpu::out32(port, random.value() as u32),
                3 => _ = cpu::in8(port),
                4 => _ = cpu::in16(port),
                _ => _ = cpu::in32(port),
            }
            // States that a driver reaches, so that what follows meets a device that works.
            if round % 40 == 0 {
                start(base, QUEUES);
            }
        }
        cpu::out8(base + STATUS, 0);
    }
}

/// Queues with loops, chains to nowhere, lengths and indexes beyond all bounds.
pub fn queues() {
    let mut random = Random(19);
    for device in pci::devices() {
        let base = pci::ports(device);
        for round in 0..50 {
            let place = match round % 10 {
                0 => RAM - 0x1_0000,
                1 => QUEUES + 1,
                _ => QUEUES,
            };
            cpu::out8(base + STATUS, 0);
            (0..MOST_QUEUES).for_each(|queue| fill(QUEUES + usize::from(queue) * 0x1_0000, &mut random));
            cpu::out16(base + QUEUE_SELECT, 0);
            cpu::out16(base + QUEUE_SIZE, random.value() as u16);
            start(base, place);
            for _ in 0..8 {
                kick_all(base);
                // What the device reads meanwhile changes under it.
                scribble(&mut random);
                if cpu::in8(base + STATUS) & NEEDS_RESET != 0 {
                    break;
                }
            }
        }
        cpu::out8(base + STATUS, 0);
    }
}

/// Fills a table, its available ring and an indirect table with nonsense that is nearly right.
fn fill(rings: usize, random: &mut Random) {
    for index in 0..DESCRIPTORS {
        descriptor(rings + 16 * index, random);
    }
    for index in 0..DESCRIPTORS {
        descriptor(DATA + 16 * index, random);
    }
    cpu::store(rings + 0x8000, random.below(2) as u16);
    let ahead = if random.below(8) == 0 { random.next() as u16 } else { random.below(20) as u16 };
    cpu::store(rings + 0x8002, ahead);
    for index in 0..DESCRIPTORS {
        let head =
            if random.below(10) == 0 { random.next() as u16 } else { random.below(DESCRIPTORS + 1) as u16 };
        cpu::store(rings + 0x8004 + 2 * index, head);
    }
    cpu::store(rings + 0xC000, 0_u64);
}

fn descriptor(at: usize, random: &mut Random) {
    let address = match random.below(12) {
        0 => random.next(),
        1 => u64::MAX - random.below(64) as u64,
        2 => (RAM - random.below(64)) as u64,
        3 => QUEUES as u64,
        4 => 1 << 32 | random.next() & 0xFFFF,
        _ => (DATA + random.below(0x8000)) as u64,
    };
    let length = match random.below(10) {
        0 => random.next() as u32,
        1 => u32::MAX,
        2 => 0,
        3 => 0x100_0000,
        4 => 16 * random.below(20) as u32,
        _ => random.below(600) as u32,
    };
    cpu::store(at, address);
    cpu::store(at + 8, length);
    // NEXT, WRITE, INDIRECT in all combinations; at times a bit that means nothing.
    let flags = random.below(8) as u16 | if random.below(20) == 0 { 1 << random.below(16) } else { 0 };
    cpu::store(at + 12, flags);
    cpu::store(
        at + 14,
        if random.below(12) == 0 { random.next() as u16 } else { random.below(DESCRIPTORS + 1) as u16 },
    );
}

fn scribble(random: &mut Random) {
    for _ in 0..16 {
        let at = QUEUES + random.below(MOST_QUEUES as usize) * 0x1_0000 + random.below(DESCRIPTORS) * 16;
        descriptor(at, random);
    }
    for queue in 0..usize::from(MOST_QUEUES) {
        let index = QUEUES + queue * 0x1_0000 + 0x8002;
        cpu::store(index, cpu::load::<u16>(index).wrapping_add(random.below(5) as u16));
    }
    for _ in 0..32 {
        cpu::store(DATA + random.below(0x8000), random.value());
    }
}

/// Doorbells without end, of devices that work, while they are reset and started.
pub fn storm() {
    let mut random = Random(23);
    for round in 0..200 {
        for device in pci::devices() {
            let base = pci::ports(device);
            if round % 4 == 0 {
                fill(QUEUES + random.below(MOST_QUEUES as usize) * 0x1_0000, &mut random);
                start(base, QUEUES);
            }
            for _ in 0..20 {
                cpu::out16(base + DOORBELLS + 2 * random.below(32) as u16, 0);
            }
            if round % 4 == 1 {
                cpu::out8(base + STATUS, 0);
            }
        }
    }
    for device in pci::devices() {
        cpu::out8(pci::ports(device) + STATUS, 0);
    }
}

/// Whether the entropy device still answers a driver that behaves.
pub fn entropy_comes() -> bool {
    let Some(device) = pci::find(pci::RNG) else { return false };
    let base = pci::ports(device);
    for at in (QUEUES..QUEUES + 0x1_0000).step_by(8) {
        cpu::store(at, 0_u64);
    }
    (0..8).for_each(|word| cpu::store(DATA + 8 * word, 0_u64));
    cpu::store(QUEUES, DATA as u64);
    cpu::store(QUEUES + 8, 64_u32);
    cpu::store(QUEUES + 12, 2_u16);
    cpu::store(QUEUES + 0x8002, 1_u16);
    if !start(base, QUEUES) {
        return false;
    }
    cpu::out16(base + DOORBELLS, 0);
    // An exit each, in which the event loop gets its turn.
    let answered = (0..2_000_000).any(|_| {
        cpu::in8(base + STATUS);
        cpu::load::<u16>(QUEUES + 0xC002) == 1
    });
    answered && (0..8).any(|word| cpu::load::<u64>(DATA + 8 * word) != 0)
}
