//! A driver for tests and fuzz targets: real rings in real guest memory, either well-behaved or as hostile as it gets.
//!
//! Not part of the program: it is there for this crate's own tests, and for `fuzz/` by the feature `fuzzing`.
//!
//! ```text
//!   guest memory:  0 ── rings, 64 KiB per queue ── DATA ── data ── RAM_SIZE      WINDOW ── window ── IMAGE ── read-only ──
//!                  each region has pages without access on both sides: a device that leaves guest memory crashes the test
//! ```
#![expect(unsafe_code, reason = "guest memory with guard pages is made by hand")]

mod abuse;
#[cfg(test)]
mod confined;
pub mod devices;
#[cfg(test)]
mod steps;

pub use abuse::{Descriptor, Request, Step, abuse, play};
#[cfg(test)]
pub use steps::steps;

use super::device::{Activation, ActiveQueue, Device, DeviceError, Interrupt};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use virtio_queue::{Queue, QueueT};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of RAM, from address 0.
pub const RAM_SIZE: u64 = 4 << 20;
/// Where a second region starts, as a DAX window would.
pub const WINDOW: u64 = 1 << 32;
/// Its bytes.
pub const WINDOW_SIZE: u64 = 1 << 20;
/// Where a region starts that nobody may write, as a shared image; right behind the window.
pub const IMAGE: u64 = WINDOW + WINDOW_SIZE;
/// Its bytes.
pub const IMAGE_SIZE: u64 = 64 << 10;
/// Where the rings end and the data begins.
pub const DATA: u64 = 1 << 20;

const RINGS: u64 = 64 << 10;
const AVAILABLE: u64 = 32 << 10;
const USED: u64 = 48 << 10;
const GUARD: usize = 64 << 10;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Counts interrupts.
#[derive(Default)]
pub struct Interrupts {
    /// For queues.
    pub queue: AtomicUsize,
    /// For the configuration space.
    pub config: AtomicUsize,
}

impl Interrupt for Interrupts {
    fn queue(&self, _: u16) {
        self.queue.fetch_add(1, Ordering::SeqCst);
    }

    fn config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Clone, Default)]
struct DriverQueue {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// The driver's side of a device.
pub struct Driver {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// What the device signalled.
    pub interrupts: Arc<Interrupts>,
    features: u64,
    queues: Vec<DriverQueue>,
    kicks: Vec<EventFd>,
    free: u64,
}

fn region(start: u64, size: usize, protection: i32) -> GuestRegionMmap {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice, never unmapped, the middle of it made accessible.
    let region = unsafe {
        let base = libc::mmap(std::ptr::null_mut(), size + 2 * GUARD, libc::PROT_NONE, flags, -1, 0);
        assert_ne!(base, libc::MAP_FAILED);
        let middle = base.wrapping_byte_add(GUARD);
        assert_eq!(libc::mprotect(middle, size, protection), 0);
        MmapRegionBuilder::new(size)
            .with_raw_mmap_pointer(middle.cast())
            .with_mmap_prot(protection)
            .with_mmap_flags(flags)
    };
    GuestRegionMmap::new(region.build().unwrap(), GuestAddress(start)).unwrap()
}

fn unmap(memory: &GuestMemoryMmap) {
    for region in memory.iter() {
        let base: *mut libc::c_void = region.as_ptr().wrapping_byte_sub(GUARD).cast();
        // SAFETY: the mapping that `region` made; the driver drops its memory and no test uses the device's afterwards.
        unsafe { libc::munmap(base, region.size() + 2 * GUARD) };
    }
}

impl Driver {
    /// Brings `device` up with all its queues and those of its features that are in `features`.
    pub fn new(device: &mut dyn Device, features: u64) -> Self {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let regions = vec![
            region(0, RAM_SIZE as usize, both),
            region(WINDOW, WINDOW_SIZE as usize, both),
            region(IMAGE, IMAGE_SIZE as usize, libc::PROT_READ),
        ];
        let mut driver = Self {
            memory: GuestMemoryMmap::from_regions(regions).unwrap(),
            interrupts: Arc::default(),
            features: features & device.features(),
            queues: Vec::new(),
            kicks: Vec::new(),
            free: DATA,
        };
        driver.activate(device).unwrap();
        driver
    }

    /// Resets the device and brings it up again.
    pub fn reset(&mut self, device: &mut dyn Device) {
        device.reset();
        self.activate(device).unwrap();
    }

    fn activate(&mut self, device: &mut dyn Device) -> Result<(), DeviceError> {
        let sizes: Vec<u16> = device.queue_sizes().to_vec();
        assert!(sizes.iter().all(|size| size.is_power_of_two() && *size <= 1024));
        self.memory.write_slice(&vec![0; sizes.len() * RINGS as usize], GuestAddress(0)).unwrap();
        self.queues =
            sizes.iter().map(|size| DriverQueue { size: *size, ..DriverQueue::default() }).collect();
        self.kicks = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
        let queues = (0..sizes.len()).map(|index| Some(self.queue(index))).collect();
        let interrupt: Arc<dyn Interrupt> = self.interrupts.clone();
        device.activate(Activation {
            memory: self.memory.clone(),
            queues,
            features: self.features,
            interrupt,
        })
    }

    /// What the device gets for queue `index`.
    pub fn queue(&self, index: usize) -> ActiveQueue {
        let base = index as u64 * RINGS;
        let mut queue = Queue::new(self.queues[index].size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(base)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(base + AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(base + USED)).unwrap();
        queue.set_ready(true);
        ActiveQueue { index: index as u16, queue, kick: self.kicks[index].try_clone().unwrap() }
    }

    /// Guest memory that nothing else uses.
    pub fn alloc(&mut self, len: u64) -> u64 {
        let address = self.free;
        self.free += len.next_multiple_of(16);
        assert!(self.free <= RAM_SIZE);
        address
    }

    /// Guest memory with `data` in it.
    pub fn place(&mut self, data: &[u8]) -> u64 {
        let address = self.alloc(data.len() as u64);
        self.write(address, data);
        address
    }

    /// Writes guest memory.
    pub fn write(&self, address: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(address)).unwrap();
    }

    /// Reads guest memory.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }

    fn descriptor(&self, table: u64, descriptor: Descriptor) {
        let Descriptor { index, address, len, flags, next } = descriptor;
        let mut raw = address.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &raw);
    }

    /// Offers a chain of (address, bytes, device writes) and returns its head.
    pub fn add(&mut self, queue: usize, chain: &[(u64, u32, bool)]) -> u16 {
        let (table, size) = (queue as u64 * RINGS, self.queues[queue].size);
        let head = self.queues[queue].next_descriptor;
        for (place, (address, len, write)) in chain.iter().enumerate() {
            let index = (head + place as u16) % size;
            let next = if place + 1 < chain.len() { NEXT } else { 0 };
            let flags = next | if *write { WRITE } else { 0 };
            let (address, len, next) = (*address, *len, (index + 1) % size);
            self.descriptor(table, Descriptor { index, address, len, flags, next });
        }
        self.queues[queue].next_descriptor = (head + chain.len() as u16) % size;
        self.offer(queue, head);
        head
    }

    /// Offers the same through an indirect table.
    pub fn add_indirect(&mut self, queue: usize, chain: &[(u64, u32, bool)]) -> u16 {
        let table = self.alloc(16 * chain.len() as u64);
        for (index, (address, len, write)) in chain.iter().enumerate() {
            let next = if index + 1 < chain.len() { NEXT } else { 0 };
            let flags = next | if *write { WRITE } else { 0 };
            let (address, len, index) = (*address, *len, index as u16);
            self.descriptor(table, Descriptor { index, address, len, flags, next: index + 1 });
        }
        let head = self.queues[queue].next_descriptor;
        let len = 16 * chain.len() as u32;
        let descriptor = Descriptor { index: head, address: table, len, flags: INDIRECT, next: 0 };
        self.descriptor(queue as u64 * RINGS, descriptor);
        self.queues[queue].next_descriptor = (head + 1) % self.queues[queue].size;
        self.offer(queue, head);
        head
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let state = &mut self.queues[queue];
        let slot = u64::from(state.available % state.size);
        state.available = state.available.wrapping_add(1);
        let (ring, index) = (queue as u64 * RINGS + AVAILABLE, state.available);
        self.write(ring + 4 + 2 * slot, &head.to_le_bytes());
        self.write(ring + 2, &index.to_le_bytes());
    }

    /// Makes room: [`Driver::alloc`] begins again behind the first pages of the data area.
    fn recycle(&mut self, want: u64) {
        if self.free + want + 4096 > RAM_SIZE {
            self.free = DATA + 65536;
        }
    }

    /// Kicks, as often as the device asks to be called again.
    pub fn kick(&mut self, device: &mut dyn Device, queue: usize) -> Result<(), DeviceError> {
        device.kick(queue as u16)?;
        self.settle(device)
    }

    fn settle(&mut self, device: &mut dyn Device) -> Result<(), DeviceError> {
        for _ in 0..10_000 {
            let mut quiet = true;
            for index in 0..self.kicks.len() {
                if self.kicks[index].read().is_ok() {
                    quiet = false;
                    device.kick(index as u16)?;
                }
            }
            if quiet {
                return Ok(());
            }
        }
        panic!("the device asks to be called again for ever");
    }

    /// Waits until a watched file is ready and tells the device; `false` after `milliseconds` without any.
    pub fn pump(&mut self, device: &mut dyn Device, milliseconds: i32) -> Result<bool, DeviceError> {
        let watches = device.watches();
        let tokens: HashSet<u64> = watches.iter().map(|watch| watch.token).collect();
        assert_eq!(tokens.len(), watches.len(), "tokens are unique");
        let events = |watch: &super::device::Watch| {
            (if watch.readable { libc::POLLIN } else { 0 }) | (if watch.writable { libc::POLLOUT } else { 0 })
        };
        let mut polled: Vec<libc::pollfd> =
            watches.iter().map(|w| libc::pollfd { fd: w.fd, events: events(w), revents: 0 }).collect();
        // SAFETY: the array is as long as stated.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as u64, milliseconds) };
        for (watch, state) in watches.iter().zip(&polled) {
            if state.revents != 0 {
                device.ready(watch.token)?;
            }
        }
        self.settle(device)?;
        Ok(ready > 0)
    }

    /// Requests that the device has given back since the last look, as (head, bytes written).
    pub fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let ring = queue as u64 * RINGS + USED;
        let index = u16::from_le_bytes(self.read(ring + 2, 2).try_into().unwrap());
        let mut all = Vec::new();
        while self.queues[queue].used != index {
            let slot = u64::from(self.queues[queue].used % self.queues[queue].size);
            let raw = self.read(ring + 4 + 8 * slot, 8);
            let word = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
            all.push((word(0), word(4)));
            self.queues[queue].used = self.queues[queue].used.wrapping_add(1);
        }
        all
    }

    /// Waits until `count` requests were given back.
    pub fn wait(&mut self, device: &mut dyn Device, queue: usize, count: usize) -> Vec<(u32, u32)> {
        let mut all = self.used(queue);
        while all.len() < count {
            assert!(self.pump(device, 60_000).unwrap(), "the device has stalled");
            all.extend(self.used(queue));
        }
        all
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        unmap(&self.memory);
    }
}
