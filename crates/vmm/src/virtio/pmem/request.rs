//! What a driver asks of persistent memory (virtio 1.2, 5.19.6): to flush, and nothing else.

use crate::virtio::ring::Buffers;
use vm_memory::GuestMemoryMmap;

/// VIRTIO_PMEM_REQ_TYPE_FLUSH
const TYPE_FLUSH: u32 = 0;

/// `ret` of `struct virtio_pmem_resp`: 0 is success, all else is a failure (5.19.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What was written is durable.
    Ok,
    /// It is not.
    Failed,
}

impl Answer {
    /// Writes the answer; returns its length in bytes.
    pub fn write(self, memory: &GuestMemoryMmap, room: &Buffers) -> u32 {
        let value: u32 = if self == Self::Ok { 0 } else { u32::MAX };
        room.write(memory, &value.to_le_bytes()) as u32
    }
}

/// Whether a request is one to flush.
pub fn is_flush(memory: &GuestMemoryMmap, request: &Buffers) -> bool {
    let mut kind = [0xff; 4];
    request.read(memory, &mut kind) == kind.len() && u32::from_le_bytes(kind) == TYPE_FLUSH
}
