//! Memory that comes and goes: virtio-mem (virtio 1.2, 5.15), a region of guest memory that is plugged block by block.
//!
//! ```text
//!   MemControl::request(bytes) ─► requested_size, config interrupt ─► driver ─► plug, unplug ─► request::parse ─► Blocks
//!                                                             unplugged blocks ─► madvise: the host has them back
//! ```
//!
//! The machine reserves the whole region (private, no swap space reserved) and maps it into the guest; a block costs memory when
//! it is touched. A guest is told not to touch what is unplugged (VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE). One that does it all the
//! same gets zeroed pages: what bounds a hostile guest is the memory limit of the machine's cgroup, as for all of its RAM.

pub mod blocks;
pub mod request;
#[cfg(test)]
mod tests;

use super::device::{Activation, Device, DeviceError, Interrupt, Watch};
use super::guest_io::{Backing, free_pages};
use super::ring::{BUDGET, RING_FEATURES, Ring};
use blocks::{Blocks, RegionError};
use request::{Answer, Operation};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE
const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
const QUEUE_SIZE: u16 = 32;
const TOKEN_CONTROL: u64 = 0;

/// What device and control share.
struct Shared {
    changed: EventFd,
    requested: AtomicU64,
    plugged: AtomicU64,
}

/// Controls the memory from any thread.
#[derive(Clone)]
pub struct MemControl {
    shared: Arc<Shared>,
    region: Range<u64>,
    block: u64,
}

impl MemControl {
    /// Asks the guest to have `bytes` of the region; rounded down to whole blocks, at most the region. Returns what was asked for.
    pub fn request(&self, bytes: u64) -> u64 {
        let bytes = bytes.min(self.size()) / self.block * self.block;
        self.shared.requested.store(bytes, Ordering::Release);
        let _ = self.shared.changed.write(1);
        bytes
    }

    /// Bytes that the guest was asked to have.
    pub fn requested(&self) -> u64 {
        self.shared.requested.load(Ordering::Acquire)
    }

    /// Bytes of the region.
    pub fn size(&self) -> u64 {
        self.region.end - self.region.start
    }

    /// Bytes that the guest has plugged.
    pub fn plugged(&self) -> u64 {
        self.shared.plugged.load(Ordering::Acquire)
    }
}

struct Active {
    ring: Ring,
    interrupt: Arc<dyn Interrupt>,
}

/// The device.
pub struct Mem {
    blocks: Blocks,
    backing: Backing,
    requested: u64,
    shared: Arc<Shared>,
    active: Option<Active>,
}

impl Mem {
    /// The memory at guest addresses `region`, in blocks of `block` bytes, all unplugged, and what it is controlled with.
    ///
    /// # Errors
    /// When blocks and region do not fit, or no eventfd can be made.
    pub fn new(region: Range<u64>, block: u64, backing: Backing) -> Result<(Self, MemControl), RegionError> {
        let blocks = Blocks::new(region.clone(), block)?;
        let changed = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(RegionError::Control)?;
        let shared = Arc::new(Shared { changed, requested: AtomicU64::new(0), plugged: AtomicU64::new(0) });
        let control = MemControl { shared: Arc::clone(&shared), region, block };
        Ok((Self { blocks, backing, requested: 0, shared, active: None }, control))
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        let result = self.serve(&mut active.ring);
        self.active = Some(active);
        result
    }

    fn serve(&mut self, ring: &mut Ring) -> Result<(), DeviceError> {
        let mut left = BUDGET;
        while left > 0 {
            let Some(chain) = ring.next()? else {
                if ring.rearm()? {
                    continue;
                }
                break;
            };
            left -= 1;
            let answer = match request::parse(ring.memory(), &chain.readable) {
                Some(operation) => self.answer(ring.memory(), operation),
                None => Answer::Error,
            };
            ring.complete(chain.head, answer.write(ring.memory(), &chain.writable))?;
        }
        self.shared.plugged.store(self.blocks.plugged(), Ordering::Release);
        if left == 0 {
            ring.kick_again();
        }
        ring.signal()
    }

    fn answer(&mut self, memory: &GuestMemoryMmap, operation: Operation) -> Answer {
        let free = |range: &Range<u64>| -> io::Result<()> {
            free_pages(memory, GuestAddress(range.start), (range.end - range.start) as usize, self.backing)
        };
        match operation {
            Operation::Plug { address, count } => match self.blocks.range(address, count) {
                Some(range) if self.blocks.all(&range, false) => {
                    if range.end - range.start > self.requested.saturating_sub(self.blocks.plugged()) {
                        return Answer::Nack;
                    }
                    self.blocks.set(&range, true);
                    Answer::Ack
                }
                _ => Answer::Error,
            },
            Operation::Unplug { address, count } => match self.blocks.range(address, count) {
                Some(range) if self.blocks.all(&range, true) => {
                    if free(&range).is_err() {
                        return Answer::Busy;
                    }
                    self.blocks.set(&range, false);
                    Answer::Ack
                }
                _ => Answer::Error,
            },
            Operation::UnplugAll => {
                let whole = self.blocks.region();
                if self.blocks.plugged() > 0 && free(&whole).is_err() {
                    return Answer::Busy;
                }
                self.blocks.set(&whole, false);
                Answer::Ack
            }
            Operation::State { address, count } => match self.blocks.range(address, count) {
                Some(range) => Answer::State {
                    plugged: self.blocks.all(&range, true),
                    unplugged: self.blocks.all(&range, false),
                },
                None => Answer::Error,
            },
        }
    }
}

impl Device for Mem {
    fn name(&self) -> &str {
        "mem"
    }

    fn kind(&self) -> u32 {
        24
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES | F_UNPLUGGED_INACCESSIBLE
    }

    /// `struct virtio_mem_config` (5.15.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let region = self.blocks.region();
        let size = region.end - region.start;
        // All of the region is usable; node_id and its padding are 0 without VIRTIO_MEM_F_ACPI_PXM.
        let words = [self.blocks.block(), 0, region.start, size, size, self.blocks.plugged(), self.requested];
        super::config::read(&words.map(u64::to_le_bytes).concat(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        let queue = super::config::required_queue("mem", &mut queues, 0)?;
        let ring = Ring::new("mem", queue, features, &memory, &interrupt)?;
        self.active = Some(Active { ring, interrupt });
        Ok(())
    }

    fn kick(&mut self, _: u16) -> Result<(), DeviceError> {
        self.process()
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch {
            fd: self.shared.changed.as_raw_fd(),
            token: TOKEN_CONTROL,
            readable: true,
            writable: false,
        }]
    }

    fn ready(&mut self, _: u64) -> Result<(), DeviceError> {
        // Read first: a request that comes in between signals again.
        let _ = self.shared.changed.read();
        let requested = self.shared.requested.load(Ordering::Acquire);
        if std::mem::replace(&mut self.requested, requested) != requested
            && let Some(active) = &self.active
        {
            active.interrupt.config();
        }
        Ok(())
    }

    /// Blocks stay plugged: the guest may be in them (5.15.6.1). A driver that starts afresh unplugs all.
    fn reset(&mut self) {
        self.active = None;
    }
}
