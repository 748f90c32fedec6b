//! What answers FUSE requests, apart from how they arrive: the queue knows no file system, the file system knows no queue.

use super::wire::{IN_HEADER, InHeader, OUT_HEADER, Opcode, out_header};
use crate::virtio::guest_io::Iovecs;
use crate::virtio::ring::Buffers;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use vm_memory::GuestMemoryMmap;

/// Longest request that is copied out of guest memory, in bytes: a setxattr with the largest value (`XATTR_SIZE_MAX`, 64 KiB) and
/// its name. The payload of a write is not copied.
const MAX_COPY: usize = 68 << 10;

/// Answers requests. Called by several threads at once.
pub trait Server: Send + Sync {
    /// Handles one request: reads it, writes its answer and gives the answer's length in bytes, 0 for none.
    ///
    /// Any bytes may come. It must not panic, and may wait for the host's disk.
    fn handle(&self, request: &Request<'_>) -> u32;

    /// Called first in each thread that handles requests.
    fn enter_thread(&self) {}

    /// The guest starts anew: open files and nodes are forgotten, windows are empty.
    fn reset(&self);
}

/// Answers for a directory that was taken away: every request fails.
pub struct Gone;

impl Server for Gone {
    fn handle(&self, request: &Request<'_>) -> u32 {
        let Some(header) = request.header() else { return 0 };
        match Opcode::from_wire(header.opcode) {
            Some(opcode) if opcode.is_silent() => 0,
            _ => request.answer(header.unique, Err(Errno::IO)),
        }
    }

    fn reset(&self) {}
}

/// One request in guest memory.
pub struct Request<'m> {
    memory: &'m GuestMemoryMmap,
    readable: Buffers,
    writable: Buffers,
}

impl<'m> Request<'m> {
    /// The two parts of a descriptor chain.
    pub fn new(memory: &'m GuestMemoryMmap, readable: Buffers, writable: Buffers) -> Self {
        Self { memory, readable, writable }
    }

    /// The header. `None` when there is none, or it states more bytes than there are.
    pub fn header(&self) -> Option<InHeader> {
        let mut bytes = [0; IN_HEADER];
        let complete = self.readable.read(self.memory, &mut bytes) == IN_HEADER;
        let header = complete.then(|| InHeader::parse(&bytes))?;
        (header.len as usize >= IN_HEADER && u64::from(header.len) <= self.readable.len()).then_some(header)
    }

    /// A copy of at most `most` bytes behind the header.
    pub fn arguments(&self, header: &InHeader, most: usize) -> Result<Vec<u8>, Errno> {
        let length = (header.len as usize - IN_HEADER).min(most);
        if length > MAX_COPY {
            return Err(Errno::TOOBIG);
        }
        let mut bytes = vec![0; IN_HEADER + length];
        let count = self.readable.read(self.memory, &mut bytes);
        bytes.truncate(count);
        Ok(bytes.split_off(IN_HEADER.min(count)))
    }

    /// Bytes of room behind an answer's header.
    pub fn room(&self) -> usize {
        (self.writable.len() as usize).saturating_sub(OUT_HEADER)
    }

    /// Writes an answer with this body. Gives its length.
    pub fn answer(&self, unique: u64, body: Result<&[u8], Errno>) -> u32 {
        let body = body.and_then(|body| if body.len() <= self.room() { Ok(body) } else { Err(Errno::IO) });
        let bytes = body.unwrap_or_default();
        let mut answer = out_header(OUT_HEADER + bytes.len(), body.err(), unique).to_vec();
        answer.extend(bytes);
        self.writable.write(self.memory, &answer) as u32
    }

    /// Writes the header for `length` bytes that are there already.
    pub fn answer_direct(&self, unique: u64, length: usize) -> u32 {
        let header = out_header(OUT_HEADER + length, None, unique);
        self.writable.write(self.memory, &header) as u32 + length as u32
    }

    /// Reads from a file into the room behind the answer's header; fewer bytes than `most` at the file's end.
    pub fn read_file(&self, file: BorrowedFd<'_>, offset: u64, most: u32) -> Result<usize, Errno> {
        let (_, room) = self.writable.clone().split(OUT_HEADER as u64);
        let (room, _) = room.split(u64::from(most));
        let mut pieces = Iovecs::of(self.memory, &room).map_err(errno)?;
        let wanted = pieces.len();
        let result = pieces.read_all_at(file, offset);
        moved(wanted - pieces.len(), result, std::io::ErrorKind::UnexpectedEof)
    }

    /// Writes `length` bytes of the request, from `skip` bytes behind its header on, to a file.
    pub fn write_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        skip: usize,
        length: u32,
    ) -> Result<usize, Errno> {
        let (_, payload) = self.readable.clone().split((IN_HEADER + skip) as u64);
        let (payload, _) = payload.split(u64::from(length));
        if payload.len() < u64::from(length) {
            return Err(Errno::INVAL);
        }
        let mut pieces = Iovecs::of(self.memory, &payload).map_err(errno)?;
        let wanted = pieces.len();
        let result = pieces.write_all_at(file, offset);
        moved(wanted - pieces.len(), result, std::io::ErrorKind::WriteZero)
    }
}

/// What was moved before something stopped it counts; the error comes back at the next attempt.
fn moved(count: usize, result: std::io::Result<()>, at_end: std::io::ErrorKind) -> Result<usize, Errno> {
    match result {
        Err(error) if count == 0 && error.kind() != at_end => Err(errno(error)),
        _ => Ok(count),
    }
}

/// The number of an error of the standard library.
pub fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
