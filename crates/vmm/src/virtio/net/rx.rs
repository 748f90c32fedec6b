//! From the tap to the guest.
//!
//! ```text
//!   guest's buffers ─► spare (as many as the largest packet takes) ─┐
//!                                               overflow (ours) ────┴─► one readv of one packet
//!   it fits ─► num_buffers into its header, the buffers it filled go back together
//!   it does not ─► held: what went into `overflow` follows when the guest gives more buffers
//! ```
//!
//! So nothing is copied while the guest gives its buffers in time, and nothing is cut when it does not.

use super::{HEADER, Health, MAX_PACKET};
use crate::virtio::counters::{Counters, add};
use crate::virtio::device::DeviceError;
use crate::virtio::guest_io::{Iovecs, MAX_IOVECS};
use crate::virtio::rate_limit::Limiter;
use crate::virtio::ring::{BUDGET, Chain, Ring};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Offset of `num_buffers` in the header (5.1.6).
const NUM_BUFFERS: u64 = 10;

/// Pieces for one packet, with room for ours and for pieces that cross into another region.
const MAX_PIECES: usize = MAX_IOVECS / 2 - 1;

/// A packet of which the rest is in `overflow`.
#[derive(Debug, Clone, Copy)]
struct Held {
    len: u64,
    /// Bytes at the start of the spare buffers that are already there.
    placed: u64,
    /// Bytes of `overflow` that are already there.
    taken: usize,
}

/// The receiving side.
pub struct Receive {
    counters: Arc<Counters>,
    mergeable: bool,
    spare: VecDeque<Chain>,
    room: u64,
    pieces: usize,
    overflow: Vec<u8>,
    held: Option<Held>,
}

impl Receive {
    /// Receives nothing yet.
    pub fn new(counters: Arc<Counters>) -> Self {
        let overflow = vec![0; MAX_PACKET];
        let (spare, held) = (VecDeque::new(), None);
        Self { counters, mergeable: false, spare, room: 0, pieces: 0, overflow, held }
    }

    /// Begins afresh; `mergeable` is whether a packet may take several buffers.
    pub fn start(&mut self, mergeable: bool) {
        self.mergeable = mergeable;
        self.spare.clear();
        (self.room, self.pieces, self.held) = (0, 0, None);
    }

    /// Forgets a packet that waits for buffers: the driver wants no more of them here.
    pub fn drop_held(&mut self) {
        if self.held.take().is_some() {
            add(&self.counters.errors, 1);
        }
    }

    /// Whether a packet could be taken now, if the limit allows it.
    pub fn wants_tap(&self) -> bool {
        !self.spare.is_empty() && self.held.is_none()
    }

    /// Takes packets from the tap until it is empty, the guest has no more buffers or the limit is reached.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn process(
        &mut self,
        ring: &mut Ring,
        tap: BorrowedFd<'_>,
        limiter: &mut Limiter,
        health: &mut Health,
    ) -> Result<(), DeviceError> {
        let mut left = BUDGET;
        while left > 0 && !health.dead {
            if self.held.is_some() {
                if !self.finish_held(ring)? {
                    break;
                }
                left -= 1;
                continue;
            }
            if !limiter.ready() {
                add(&self.counters.throttled, 1);
                break;
            }
            self.gather(ring, MAX_PACKET as u64)?;
            if self.spare.is_empty() {
                break;
            }
            left -= 1;
            match self.receive(ring, tap) {
                Ok(len) => {
                    health.good();
                    limiter.charge(len);
                    self.deliver(ring, len)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    health.bad(&error);
                    add(&self.counters.errors, 1);
                    // They may be the cause, when no page is behind them.
                    self.give_back(ring, self.spare.len(), 0)?;
                }
            }
        }
        if left == 0 {
            ring.kick_again();
        }
        ring.signal()
    }

    /// Takes buffers of the guest until there is room for `want` bytes. Returns whether it took all that it may: then no kick will
    /// bring more.
    fn gather(&mut self, ring: &mut Ring, want: u64) -> Result<bool, DeviceError> {
        while self.room < want {
            // More than the ring can hold are not the driver's to give before it gets some back.
            let one_only = !self.mergeable && !self.spare.is_empty();
            if one_only || self.spare.len() >= usize::from(ring.size()) {
                return Ok(true);
            }
            match ring.next()? {
                Some(chain)
                    if self.pieces + chain.writable.segments().len() > MAX_PIECES && self.pieces > 0 =>
                {
                    ring.undo();
                    return Ok(true);
                }
                Some(chain) if chain.writable.len() < HEADER as u64 => {
                    add(&self.counters.errors, 1);
                    ring.complete(chain.head, 0)?;
                }
                Some(chain) => {
                    self.room += chain.writable.len();
                    self.pieces += chain.writable.segments().len();
                    self.spare.push_back(chain);
                }
                None if ring.rearm()? => {}
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    fn receive(&mut self, ring: &Ring, tap: BorrowedFd<'_>) -> io::Result<u64> {
        let mut iovecs = Iovecs::new();
        for chain in &self.spare {
            iovecs.push(ring.memory(), &chain.writable)?;
        }
        iovecs.push_host(&mut self.overflow);
        Ok(iovecs.read(tap)? as u64)
    }

    /// Hands the packet of `len` bytes that was just read to the guest, or holds it.
    fn deliver(&mut self, ring: &mut Ring, len: u64) -> Result<(), DeviceError> {
        if len < HEADER as u64 {
            add(&self.counters.errors, 1);
            return Ok(());
        }
        if len > self.room {
            self.held = Some(Held { len, placed: self.room, taken: 0 });
            return self.finish_held(ring).map(drop);
        }
        let (mut count, mut covered) = (0, 0);
        while covered < len {
            covered += self.spare[count].writable.len();
            count += 1;
        }
        // The count fits: there are at most as many as the ring has entries.
        self.spare[0].writable.write_at(ring.memory(), NUM_BUFFERS, &(count as u16).to_le_bytes());
        add(&self.counters.requests, 1);
        add(&self.counters.bytes_to_guest, len - HEADER as u64);
        self.give_back(ring, count, len)
    }

    /// Goes on with a held packet; `false` while it needs more buffers. One for which there can be none is dropped.
    fn finish_held(&mut self, ring: &mut Ring) -> Result<bool, DeviceError> {
        let Some(mut held) = self.held else { return Ok(true) };
        let before = self.spare.len();
        let no_more = self.gather(ring, held.len)?;
        for chain in self.spare.iter().skip(before) {
            let rest = &self.overflow[held.taken..(held.len - held.placed) as usize + held.taken];
            let step = chain.writable.len().min(rest.len() as u64);
            chain.writable.write(ring.memory(), &rest[..step as usize]);
            held.taken += step as usize;
            held.placed += step;
        }
        if held.placed >= held.len {
            self.held = None;
            self.deliver(ring, held.len)?;
            return Ok(true);
        }
        self.held = (!no_more).then_some(held);
        if no_more {
            add(&self.counters.errors, 1);
        }
        Ok(no_more)
    }

    /// Gives the first `count` buffers back, with `len` bytes over them.
    fn give_back(&mut self, ring: &mut Ring, count: usize, mut len: u64) -> Result<(), DeviceError> {
        let mut done = Vec::with_capacity(count);
        for chain in self.spare.drain(..count) {
            let used = chain.writable.len().min(len);
            len -= used;
            self.room -= chain.writable.len();
            self.pieces -= chain.writable.segments().len();
            done.push((chain.head, used as u32));
        }
        ring.complete_all(&done)
    }
}
