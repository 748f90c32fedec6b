//! One virtqueue in use: takes descriptor chains from the driver, checks them, and gives them back.
//!
//! ```text
//!   driver ── available ring ──► Ring::next ─► Chain { head, readable, writable } ─► device
//!   driver ◄─ used ring ──────── Ring::complete(head, bytes written) ◄──────────────────┘
//!          ◄─ interrupt ──────── Ring::signal, unless the driver said that it looks by itself
//! ```
//!
//! A chain that reaches a device is sound: every byte of it lies in guest memory (RAM, pmem or a DAX window) and none that is to
//! be written in a read-only image, what the device reads comes before what it writes (virtio 1.2, 2.7.4.2), it ends, and it has at most [`MAX_SEGMENTS`] pieces. A driver that
//! breaks these rules gets DEVICE_NEEDS_RESET, once: a broken ring hands out nothing more.

use super::counters::{Counters, add};
use super::device::{ActiveQueue, DeviceError, Interrupt};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// VIRTIO_F_INDIRECT_DESC (virtio 1.2, 6).
pub const F_INDIRECT_DESC: u64 = 1 << 28;

/// VIRTIO_F_EVENT_IDX (virtio 1.2, 6).
pub const F_EVENT_IDX: u64 = 1 << 29;

/// What every ring of ours can do.
pub const RING_FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2, 2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Most pieces of one chain. Leaves room below `UIO_MAXIOV` (1024, Linux `include/uapi/linux/uio.h`) for pieces that cross from
/// one memory region into the next.
pub const MAX_SEGMENTS: usize = 512;

/// Most chains that a device handles in one wake-up, so that no device keeps the event loop from the others.
pub const BUDGET: usize = 64;

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddress,
    /// Bytes.
    pub len: u32,
}

/// The readable or the writable part of a chain, as one string of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buffers {
    segments: Vec<Segment>,
    len: u64,
}

impl Buffers {
    /// The pieces, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, segment: Segment) {
        if segment.len > 0 {
            self.segments.push(segment);
            self.len += u64::from(segment.len);
        }
    }

    /// Cuts into the first `at` bytes and the rest; all of it and nothing when it is shorter.
    #[must_use]
    pub fn split(self, at: u64) -> (Buffers, Buffers) {
        let (mut front, mut back) = (Buffers::default(), Buffers::default());
        for Segment { address, len } in self.segments {
            // Never more than `len`, so it fits.
            let take = (at - front.len).min(u64::from(len)) as u32;
            front.push(Segment { address, len: take });
            // Both ends lie in guest memory, so the address does not wrap.
            back.push(Segment { address: GuestAddress(address.0 + u64::from(take)), len: len - take });
        }
        (front, back)
    }

    /// Copies its beginning into `out`; returns how many bytes there were.
    pub fn read(&self, memory: &GuestMemoryMmap, out: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in &self.segments {
            let part = &mut out[done..];
            let want = part.len().min(segment.len as usize);
            if want == 0 || memory.read_slice(&mut part[..want], segment.address).is_err() {
                break;
            }
            done += want;
        }
        done
    }

    /// Copies `data` to its beginning; returns how many bytes went in.
    pub fn write(&self, memory: &GuestMemoryMmap, data: &[u8]) -> usize {
        self.write_at(memory, 0, data)
    }

    /// Copies `data` to the bytes from `skip` on; returns how many bytes went in.
    pub fn write_at(&self, memory: &GuestMemoryMmap, mut skip: u64, data: &[u8]) -> usize {
        let mut done = 0;
        for segment in &self.segments {
            let hidden = skip.min(u64::from(segment.len));
            skip -= hidden;
            let part = &data[done..];
            let want = part.len().min((u64::from(segment.len) - hidden) as usize);
            let address = GuestAddress(segment.address.0 + hidden);
            if want > 0 && memory.write_slice(&part[..want], address).is_err() {
                break;
            }
            done += want;
        }
        done
    }
}

/// A request of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Index of its first descriptor, by which it is given back.
    pub head: u16,
    /// What the device may read.
    pub readable: Buffers,
    /// What the device may write.
    pub writable: Buffers,
}

/// A queue of an active device.
pub struct Ring {
    device: String,
    queue: ActiveQueue,
    memory: GuestMemoryMmap,
    interrupt: Arc<dyn Interrupt>,
    broken: bool,
    unsignalled: u32,
    counters: Option<Arc<Counters>>,
}

impl Ring {
    /// Takes over a queue of the device `device`, with the accepted `features`.
    ///
    /// # Errors
    /// When its rings do not lie in guest memory.
    pub fn new(
        device: &str,
        mut queue: ActiveQueue,
        features: u64,
        memory: &GuestMemoryMmap,
        interrupt: &Arc<dyn Interrupt>,
    ) -> Result<Self, DeviceError> {
        queue.queue.set_event_idx(features & F_EVENT_IDX != 0);
        let (memory, interrupt) = (memory.clone(), Arc::clone(interrupt));
        let device = device.to_string();
        let mut ring =
            Self { device, queue, memory, interrupt, broken: false, unsignalled: 0, counters: None };
        if !ring.is_valid() {
            return Err(ring.broke("its addresses are not in guest memory, or where nobody may write"));
        }
        Ok(ring)
    }

    /// The same, which counts what goes through it: requests given back, their bytes in both directions with all headers.
    #[must_use]
    pub fn counted(self, counters: &Arc<Counters>) -> Self {
        Self { counters: Some(Arc::clone(counters)), ..self }
    }

    /// All memory that the guest may name.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Guest memory is another from now on; requests that were taken before keep what they saw.
    ///
    /// # Errors
    /// When the queue's rings do not lie in it.
    pub fn set_memory(&mut self, memory: &GuestMemoryMmap) -> Result<(), DeviceError> {
        self.memory = memory.clone();
        match self.is_valid() {
            true => Ok(()),
            false => Err(self.broke("its addresses are not in guest memory any more")),
        }
    }

    /// Index of the next request in the available ring, where a later owner of the queue goes on.
    pub fn position(&self) -> u16 {
        self.queue.queue.next_avail()
    }

    fn is_valid(&self) -> bool {
        let queue = &self.queue.queue;
        // Flags, index and event of the used ring are written besides its entries (2.7.8).
        let used = Segment { address: GuestAddress(queue.used_ring()), len: 6 + 8 * u32::from(queue.size()) };
        queue.is_valid(&self.memory) && allowed(&self.memory, used, true)
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.queue.queue.size()
    }

    /// The next request, or `None` when there is none now.
    ///
    /// # Errors
    /// When the driver breaks the rules of the ring; only once, then the ring stays empty.
    #[expect(clippy::should_implement_trait, reason = "it fails, and what comes next is the driver's choice")]
    pub fn next(&mut self) -> Result<Option<Chain>, DeviceError> {
        if self.broken {
            return Ok(None);
        }
        let popped = match self.queue.queue.iter(&self.memory) {
            Ok(mut available) => match available.next() {
                Some(chain) => parse(&self.memory, chain).map(Some),
                None => return Ok(None),
            },
            Err(_) => Err("the available index is further ahead than the queue is long"),
        };
        let popped = popped.map_err(|reason| self.broke(reason))?;
        if let (Some(counters), Some(chain)) = (&self.counters, &popped) {
            add(&counters.bytes_from_guest, chain.readable.len());
        }
        Ok(popped)
    }

    /// Puts the chain that [`Ring::next`] gave last back, to get it again.
    pub fn undo(&mut self) {
        self.queue.queue.go_to_previous_position();
    }

    /// Gives a request back; `written` is the number of bytes at the start of its writable part that the device has filled.
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), DeviceError> {
        self.complete_all(&[(head, written)])
    }

    /// Gives several requests back at once: the driver sees all of them or none, as the buffers of one merged packet need
    /// (virtio 1.2, 5.1.6.4).
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn complete_all(&mut self, done: &[(u16, u32)]) -> Result<(), DeviceError> {
        if self.broken {
            return Ok(());
        }
        let (size, first) = (self.size(), self.queue.queue.next_used());
        if done.len() > usize::from(size) || done.iter().any(|(head, _)| *head >= size) {
            return Err(self.broke("a request cannot be given back: its index is beyond the queue"));
        }
        let (ring, mut next) = (self.queue.queue.used_ring(), first);
        let mut written = Ok(());
        for (head, len) in done {
            let element = u64::from(*head) | u64::from(*len) << 32;
            let address = GuestAddress(ring + 4 + 8 * u64::from(next % size));
            written = written.and_then(|()| self.memory.write_obj(element.to_le(), address));
            next = next.wrapping_add(1);
        }
        let index = GuestAddress(ring + 2);
        if written.and_then(|()| self.memory.store(next.to_le(), index, Ordering::Release)).is_err() {
            return Err(self.broke("the used ring cannot be written"));
        }
        self.queue.queue.set_next_used(next);
        self.unsignalled = self.unsignalled.saturating_add(done.len() as u32);
        if let Some(counters) = &self.counters {
            add(&counters.requests, done.len() as u64);
            add(&counters.bytes_to_guest, done.iter().map(|(_, len)| u64::from(*len)).sum());
        }
        Ok(())
    }

    /// Interrupts the guest if something was completed since the last time and it wants to know.
    ///
    /// # Errors
    /// When the available ring cannot be read.
    pub fn signal(&mut self) -> Result<(), DeviceError> {
        let added = std::mem::take(&mut self.unsignalled);
        if self.broken || added == 0 {
            return Ok(());
        }
        // The used index must be seen before the driver's wish is read (2.7.10).
        fence(Ordering::SeqCst);
        let queue = &self.queue.queue;
        let event_idx = queue.event_idx_enabled();
        let wish = if event_idx { 4 + 2 * u64::from(queue.size()) } else { 0 };
        let wish = self.memory.load::<u16>(GuestAddress(queue.avail_ring() + wish), Ordering::Relaxed);
        let Ok(wish) = wish.map(u16::from_le) else {
            return Err(self.broke("the available ring cannot be read"));
        };
        let wanted = if event_idx {
            u32::from(queue.next_used().wrapping_sub(wish).wrapping_sub(1)) < added
        } else {
            wish & AVAIL_F_NO_INTERRUPT == 0
        };
        if wanted {
            self.interrupt.queue(self.queue.index);
        }
        Ok(())
    }

    /// Asks for a kick at the next request; `true` when one has come meanwhile, for which there is no kick.
    ///
    /// # Errors
    /// When the rings cannot be accessed.
    pub fn rearm(&mut self) -> Result<bool, DeviceError> {
        if self.broken {
            return Ok(false);
        }
        let more = self.queue.queue.enable_notification(&self.memory);
        more.map_err(|_| self.broke("the rings cannot be accessed"))
    }

    /// Has the event loop call again, after the other devices had their turn.
    pub fn kick_again(&self) {
        // It fails only when the counter is full, and then the event loop will call anyway.
        let _ = self.queue.kick.write(1);
    }

    fn broke(&mut self, reason: &str) -> DeviceError {
        self.broken = true;
        self.fault(reason)
    }

    fn fault(&self, reason: &str) -> DeviceError {
        DeviceError { device: self.device.clone(), reason: format!("queue {}: {reason}", self.queue.index) }
    }
}

/// Whether a piece lies in guest memory, and in none that is mapped read-only if it is to be written: a store there is a signal.
fn allowed(memory: &GuestMemoryMmap, segment: Segment, write: bool) -> bool {
    let Some(last) = segment.address.0.checked_add(u64::from(segment.len).saturating_sub(1)) else {
        return false;
    };
    let mut next = segment.address;
    while segment.len > 0 && next.0 <= last {
        match memory.find_region(next) {
            Some(region) if !write || region.prot() & libc::PROT_WRITE != 0 => {
                match region.last_addr().0.checked_add(1) {
                    Some(address) => next = GuestAddress(address),
                    None => return true,
                }
            }
            _ => return false,
        }
    }
    true
}

fn parse(memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> Result<Chain, &'static str> {
    let head = chain.head_index();
    let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
    let mut last: Option<Descriptor> = None;
    for (index, descriptor) in chain.enumerate() {
        if index == MAX_SEGMENTS {
            return Err("a chain has too many descriptors");
        }
        let segment = Segment { address: descriptor.addr(), len: descriptor.len() };
        if !allowed(memory, segment, descriptor.is_write_only()) {
            return Err("a descriptor points outside of guest memory, or is to be written where nobody may");
        }
        match (descriptor.is_write_only(), writable.segments.is_empty()) {
            (true, _) => writable.push(segment),
            (false, true) => readable.push(segment),
            (false, false) => return Err("a chain has something to read behind what is to be written"),
        }
        last = Some(descriptor);
    }
    match last {
        None => Err("a chain has no descriptors"),
        Some(last) if last.has_next() => Err("a chain does not end"),
        Some(_) => Ok(Chain { head, readable, writable }),
    }
}

#[cfg(test)]
mod tests;
