//! What a driver asks of its memory (virtio 1.2, 5.15.6).
//!
//! ```text
//!   readable: type u16 | padding 6 | address u64 | blocks u16 | padding 6     writable: type u16 | padding 6 | state u16
//! ```

use crate::virtio::ring::Buffers;
use vm_memory::GuestMemoryMmap;

/// What is to be done with `count` blocks from `address` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// VIRTIO_MEM_REQ_PLUG
    Plug {
        /// Guest address of the first block.
        address: u64,
        /// Blocks.
        count: u16,
    },
    /// VIRTIO_MEM_REQ_UNPLUG
    Unplug {
        /// Guest address of the first block.
        address: u64,
        /// Blocks.
        count: u16,
    },
    /// VIRTIO_MEM_REQ_UNPLUG_ALL
    UnplugAll,
    /// VIRTIO_MEM_REQ_STATE
    State {
        /// Guest address of the first block.
        address: u64,
        /// Blocks.
        count: u16,
    },
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// VIRTIO_MEM_RESP_ACK
    Ack,
    /// VIRTIO_MEM_RESP_NACK: not now, it is more than requested.
    Nack,
    /// VIRTIO_MEM_RESP_BUSY: try again.
    Busy,
    /// VIRTIO_MEM_RESP_ERROR: the request is wrong.
    Error,
    /// VIRTIO_MEM_RESP_ACK with the state of a range.
    State {
        /// All of it is plugged.
        plugged: bool,
        /// None of it is.
        unplugged: bool,
    },
}

impl Answer {
    /// Writes the answer; returns its length in bytes.
    pub fn write(self, memory: &GuestMemoryMmap, room: &Buffers) -> u32 {
        let (kind, state) = match self {
            Self::Ack => (0_u16, 0_u16),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
            Self::State { plugged: true, .. } => (0, 0),
            Self::State { unplugged: true, .. } => (0, 1),
            Self::State { .. } => (0, 2),
        };
        let mut raw = [0; 10];
        raw[..2].copy_from_slice(&kind.to_le_bytes());
        raw[8..].copy_from_slice(&state.to_le_bytes());
        room.write(memory, &raw) as u32
    }
}

/// Reads a request; `None` when it is none.
pub fn parse(memory: &GuestMemoryMmap, request: &Buffers) -> Option<Operation> {
    let mut raw = [0; 24];
    let len = request.read(memory, &mut raw);
    let kind = u16::from_le_bytes([raw[0], raw[1]]);
    let mut address = [0; 8];
    address.copy_from_slice(&raw[8..16]);
    let (address, count) = (u64::from_le_bytes(address), u16::from_le_bytes([raw[16], raw[17]]));
    match kind {
        _ if len < raw.len() => None,
        0 => Some(Operation::Plug { address, count }),
        1 => Some(Operation::Unplug { address, count }),
        2 => Some(Operation::UnplugAll),
        3 => Some(Operation::State { address, count }),
        _ => None,
    }
}
