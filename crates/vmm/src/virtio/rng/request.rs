//! Fills one request with random bytes.

use crate::virtio::ring::Buffers;
use rustix::rand::GetRandomFlags;
use vm_memory::GuestMemoryMmap;

/// Most bytes of one request.
pub const MAX_BYTES: usize = 4096;

/// Writes random bytes to the beginning of `room`; returns how many, 0 when the host's generator is not seeded yet.
pub fn fill(memory: &GuestMemoryMmap, room: &Buffers) -> u32 {
    let mut random = [0; MAX_BYTES];
    let want = room.len().min(MAX_BYTES as u64) as usize;
    let got = rustix::rand::getrandom(&mut random[..want], GetRandomFlags::NONBLOCK).unwrap_or(0);
    room.write(memory, &random[..got]) as u32
}
