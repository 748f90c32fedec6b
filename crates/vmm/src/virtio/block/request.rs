//! What a driver asks of a disk (virtio 1.2, 5.2.6): one chain parsed into what it means, all of it checked.
//!
//! ```text
//!   readable: type u32 | reserved u32 | sector u64 | data to write or list of extents     writable: data read | status u8
//! ```

use super::disk::{Extent, SECTOR};
use crate::virtio::ring::{Buffers, Chain};
use vm_memory::GuestMemoryMmap;

/// Most extents in one discard or write-zeroes request.
pub const MAX_EXTENTS: u32 = 16;
/// Most sectors to discard in one extent: 2 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 4 << 20;
/// Most sectors to zero in one extent: 16 MiB, since it may come down to writing them.
pub const MAX_ZERO_SECTORS: u32 = 32 << 10;
/// Bytes of a disk's name, `VIRTIO_BLK_ID_BYTES`.
pub const ID_BYTES: usize = 20;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;
const FLAG_UNMAP: u32 = 1;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// VIRTIO_BLK_S_OK
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR
    IoError = 1,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported = 2,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Fill guest memory.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Where it goes.
        data: Buffers,
    },
    /// Write guest memory.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Where it is.
        data: Buffers,
    },
    /// Make what was written durable.
    Flush,
    /// Give the disk's name.
    GetId(Buffers),
    /// Give space back.
    Discard(Vec<Extent>),
    /// Make extents zero.
    WriteZeroes(Vec<Extent>),
}

impl Operation {
    /// Bytes that it moves, for the rate limit.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { data, .. } | Self::Write { data, .. } => data.len(),
            // Zeroing may come down to writing.
            Self::WriteZeroes(extents) => extents.iter().map(|extent| extent.len).sum(),
            Self::Flush | Self::GetId(_) | Self::Discard(_) => 0,
        }
    }
}

/// A request, with the one byte for its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// By which it is given back.
    pub head: u16,
    /// Where the status goes; empty when the driver left no room.
    pub status: Buffers,
    /// Bytes before the status.
    pub room: u64,
    /// What to do, or with what to refuse.
    pub operation: Result<Operation, Status>,
}

/// Reads a request for a disk of `capacity` bytes.
pub fn parse(memory: &GuestMemoryMmap, chain: Chain, capacity: u64, readonly: bool) -> Request {
    let room = chain.writable.len().saturating_sub(1);
    let (data_in, status) = chain.writable.split(room);
    let (header, data_out) = chain.readable.split(16);
    let mut raw = [0; 16];
    let operation = if header.read(memory, &mut raw) == raw.len() {
        let kind = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
        let mut sector = [0; 8];
        sector.copy_from_slice(&raw[8..]);
        operation(memory, kind, u64::from_le_bytes(sector), data_in, data_out, capacity, readonly)
    } else {
        Err(Status::IoError)
    };
    Request { head: chain.head, status, room, operation }
}

fn operation(
    memory: &GuestMemoryMmap,
    kind: u32,
    sector: u64,
    data_in: Buffers,
    data_out: Buffers,
    capacity: u64,
    readonly: bool,
) -> Result<Operation, Status> {
    match kind {
        TYPE_OUT | TYPE_DISCARD | TYPE_WRITE_ZEROES if readonly => Err(Status::IoError),
        TYPE_IN => Ok(Operation::Read { offset: offset(sector, data_in.len(), capacity)?, data: data_in }),
        TYPE_OUT => {
            Ok(Operation::Write { offset: offset(sector, data_out.len(), capacity)?, data: data_out })
        }
        TYPE_FLUSH => Ok(Operation::Flush),
        TYPE_GET_ID if data_in.len() >= ID_BYTES as u64 => Ok(Operation::GetId(data_in)),
        TYPE_GET_ID => Err(Status::IoError),
        TYPE_DISCARD => Ok(Operation::Discard(extents(memory, &data_out, capacity, None)?)),
        TYPE_WRITE_ZEROES => {
            Ok(Operation::WriteZeroes(extents(memory, &data_out, capacity, Some(FLAG_UNMAP))?))
        }
        _ => Err(Status::Unsupported),
    }
}

/// The byte offset of `sector`, when `len` bytes from there are whole sectors of the disk.
fn offset(sector: u64, len: u64, capacity: u64) -> Result<u64, Status> {
    let start = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
    match start.checked_add(len) {
        Some(end) if end <= capacity && len.is_multiple_of(SECTOR) => Ok(start),
        _ => Err(Status::IoError),
    }
}

/// Reads a list of `struct virtio_blk_discard_write_zeroes`; `flag` is the one that is allowed: for write-zeroes.
fn extents(
    memory: &GuestMemoryMmap,
    list: &Buffers,
    capacity: u64,
    flag: Option<u32>,
) -> Result<Vec<Extent>, Status> {
    let mut raw = [0; 16 * MAX_EXTENTS as usize];
    if list.is_empty() || !list.len().is_multiple_of(16) || list.len() > raw.len() as u64 {
        return Err(Status::IoError);
    }
    let len = list.read(memory, &mut raw);
    let word =
        |item: &[u8], at: usize| u32::from_le_bytes([item[at], item[at + 1], item[at + 2], item[at + 3]]);
    let most = if flag.is_some() { MAX_ZERO_SECTORS } else { MAX_DISCARD_SECTORS };
    let one = |item: &[u8]| {
        let sector = u64::from(word(item, 0)) | u64::from(word(item, 4)) << 32;
        let (sectors, flags) = (word(item, 8), word(item, 12));
        if flags & !flag.unwrap_or(0) != 0 {
            return Err(Status::Unsupported);
        }
        if sectors == 0 || sectors > most {
            return Err(Status::IoError);
        }
        let len = u64::from(sectors) * SECTOR;
        Ok(Extent {
            offset: offset(sector, len, capacity)?,
            len,
            unmap: flags & FLAG_UNMAP != 0 || flag.is_none(),
        })
    };
    raw[..len].chunks_exact(16).map(one).collect()
}
