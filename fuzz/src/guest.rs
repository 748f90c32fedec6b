//! What a guest does to a virtio device, out of an input's bytes.
//!
//! Most addresses and lengths come out near something: the data area, the ends of regions. Any others are possible.

use crate::bytes::Bytes;
use vmm::virtio::mock::{DATA, Descriptor, IMAGE, IMAGE_SIZE, RAM_SIZE, Request, Step, WINDOW};

/// Most steps of one input.
const MOST_STEPS: usize = 200;

/// All steps of an input.
pub fn steps(mut bytes: Bytes<'_>) -> Vec<Step> {
    std::iter::from_fn(|| step(&mut bytes)).take(MOST_STEPS).collect()
}

fn step(bytes: &mut Bytes<'_>) -> Option<Step> {
    let (kind, queue) = (bytes.byte()?, usize::from(bytes.byte()?));
    Some(match kind % 16 {
        0 => Step::Descriptor(queue, descriptor(bytes)),
        1 => Step::Indirect(descriptor(bytes)),
        2 => Step::Data(u64::from(bytes.word16() % 4096), bytes.take(queue).to_vec()),
        3 => Step::Offer(queue, bytes.word16()),
        4 => Step::Index(queue, bytes.word16()),
        5 => {
            let pieces =
                (0..bytes.byte()? % 6).map(|_| (address(bytes), length(bytes), bytes.byte() > Some(127)));
            Step::Chain(queue, pieces.collect())
        }
        6..=9 => Step::Request(queue, request(bytes)?),
        10 => Step::Kick(u16::from(bytes.byte()?)),
        11 => Step::ReadConfig(offset(bytes), queue),
        12 => Step::WriteConfig(offset(bytes), bytes.take(queue % 16).to_vec()),
        13 => Step::Host(bytes.take(queue).to_vec()),
        14 => Step::Pump,
        _ => Step::Reset,
    })
}

fn request(bytes: &mut Bytes<'_>) -> Option<Request> {
    let (size, cut) = (usize::from(bytes.byte()?), usize::from(bytes.byte()?));
    let room = length(bytes) % 70_000;
    Some(Request { readable: bytes.take(size).to_vec(), cut, room })
}

fn descriptor(bytes: &mut Bytes<'_>) -> Descriptor {
    let index = u16::from(bytes.byte().unwrap_or(0));
    let (address, len) = (address(bytes), length(bytes));
    Descriptor { index, address, len, flags: u16::from(bytes.byte().unwrap_or(0)), next: bytes.word16() }
}

fn address(bytes: &mut Bytes<'_>) -> u64 {
    let places =
        [DATA, DATA + 2048, RAM_SIZE - 64, WINDOW - 64, IMAGE - 64, IMAGE + IMAGE_SIZE - 64, u64::MAX - 64];
    match bytes.byte() {
        Some(255) => bytes.word64(),
        place => places[usize::from(place.unwrap_or(0)) % places.len()]
            .wrapping_add(u64::from(bytes.byte().unwrap_or(0))),
    }
}

fn length(bytes: &mut Bytes<'_>) -> u32 {
    match bytes.byte() {
        Some(255) => bytes.word32(),
        Some(250..) => u32::from(bytes.word16()),
        small => u32::from(small.unwrap_or(0)),
    }
}

fn offset(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.byte() {
        Some(255) => bytes.word64(),
        small => u64::from(small.unwrap_or(0)),
    }
}
