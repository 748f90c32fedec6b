//! The control queue (virtio 1.2, 5.1.6.5): the one command there is says how many pairs of queues the driver uses.

use crate::virtio::ring::Buffers;
use vm_memory::GuestMemoryMmap;

/// VIRTIO_NET_CTRL_MQ
const CLASS_MQ: u8 = 4;
/// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET
const PAIRS_SET: u8 = 0;

/// VIRTIO_NET_OK
pub const OK: u8 = 0;
/// VIRTIO_NET_ERR
pub const ERR: u8 = 1;

/// How many pairs a command asks for; `None` for any other command.
pub fn pairs(memory: &GuestMemoryMmap, command: &Buffers) -> Option<usize> {
    let mut bytes = [0; 4];
    let whole = command.len() == bytes.len() as u64 && command.read(memory, &mut bytes) == bytes.len();
    match bytes {
        [CLASS_MQ, PAIRS_SET, low, high] if whole => Some(usize::from(u16::from_le_bytes([low, high]))),
        _ => None,
    }
}
