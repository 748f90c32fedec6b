//! Disk: virtio-blk (virtio 1.2, 5.2) on a raw file or block device that the launcher opened.
//!
//! ```text
//!   kick ─► rate limit ─► request::parse ─┬─ refused, name ──────────────► status, used ring
//!                                         ├─ read that the page cache has ─► preadv2(RWF_NOWAIT) into guest memory ─► used ring
//!                                         └─ all else ─► worker thread: Disk ─► eventfd ─► ready ─► status, used ring
//! ```
//!
//! What may wait for a disk is done by two worker threads (why threads: [`crate::virtio::workers`]), straight between the file
//! and guest memory. A worker holds a reference to the memory map, so the pages it names stay mapped. Small reads that are in the
//! host's page cache, which is nearly all of a boot, are done at once: handing them over would take longer than the copy.
//!
//! A disk is never written before its driver asks for it: without VIRTIO_BLK_F_FLUSH each write is made durable before it is
//! done, with it only a flush is (5.2.6.2).

pub mod disk;
pub mod request;
#[cfg(test)]
mod tests;

use super::counters::{Counters, add};
use super::device::{Activation, Device, DeviceError, Watch};
use super::rate_limit::{Limiter, Limits};
use super::ring::{BUDGET, Buffers, RING_FEATURES, Ring};
use super::workers::{ThreadStart, Workers};
use disk::{Disk, DiskError, SECTOR};
use request::{ID_BYTES, MAX_DISCARD_SECTORS, MAX_EXTENTS, MAX_ZERO_SECTORS, Operation, Request, Status};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use vm_memory::GuestMemoryMmap;

/// VIRTIO_BLK_F_SEG_MAX
const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO
pub const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE
const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH
pub const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_TOPOLOGY
const F_TOPOLOGY: u64 = 1 << 10;
/// VIRTIO_BLK_F_DISCARD
const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES
const F_WRITE_ZEROES: u64 = 1 << 14;

const QUEUE_SIZE: u16 = 256;
/// Data pieces in one request: the queue's length without header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Largest read in bytes that is tried on the event loop; [`BUDGET`] of them are some milliseconds of copying.
const INLINE_READ: u64 = 64 << 10;
/// How long a reset waits for requests under way.
const RESET_WAIT: Duration = Duration::from_secs(5);

const TOKEN_DONE: u64 = 0;
const TOKEN_LIMIT: u64 = 1;

/// How a disk is to be.
#[derive(Debug, Clone)]
pub struct BlockOptions {
    /// By which the guest finds it (`/sys/block/*/serial`), at most 20 bytes.
    pub serial: String,
    /// No guest can write it.
    pub readonly: bool,
    /// What the guest may do per second.
    pub limits: Limits,
    /// Worker threads; 2 keep a flush from holding up reads.
    pub threads: usize,
}

struct Job {
    disk: Arc<Disk>,
    head: u16,
    status: Buffers,
    generation: u64,
    memory: Arc<GuestMemoryMmap>,
    operation: Operation,
    sync: bool,
}

struct Done {
    head: u16,
    status: Buffers,
    generation: u64,
    result: Status,
    to_guest: u64,
}

struct Active {
    ring: Ring,
    memory: Arc<GuestMemoryMmap>,
    sync: bool,
    in_flight: u16,
}

/// The device.
pub struct Block {
    name: String,
    serial: [u8; ID_BYTES],
    readonly: bool,
    /// `None` once it was taken away.
    disk: Option<Arc<Disk>>,
    bytes: u64,
    limiter: Limiter,
    workers: Workers<Job, Done>,
    counters: Arc<Counters>,
    cached_reads: bool,
    generation: u64,
    active: Option<Active>,
}

impl Block {
    /// A disk on `file`, whose threads start with `start`.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn new(file: File, options: &BlockOptions, start: &ThreadStart) -> Result<Self, DiskError> {
        let disk = Arc::new(Disk::new(file, options.readonly)?);
        let mut serial = [0; ID_BYTES];
        serial.iter_mut().zip(options.serial.bytes()).for_each(|(place, byte)| *place = byte);
        let workers = Workers::new("block", options.threads, start, run).map_err(DiskError::Threads)?;
        Ok(Self {
            name: format!("block {}", options.serial),
            serial,
            readonly: options.readonly,
            bytes: disk.bytes(),
            disk: Some(disk),
            limiter: Limiter::new(options.limits).map_err(DiskError::Threads)?,
            workers,
            counters: Arc::default(),
            cached_reads: true,
            generation: 0,
            active: None,
        })
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let mut again = true;
        for _ in 0..BUDGET {
            let Some(active) = &mut self.active else { return Ok(()) };
            if active.in_flight >= active.ring.size() {
                again = false;
                break;
            }
            if !self.limiter.ready() {
                add(&self.counters.throttled, 1);
                again = false;
                break;
            }
            match active.ring.next()? {
                Some(chain) => {
                    let request = request::parse(&active.memory, chain, self.bytes, self.readonly);
                    self.limiter.charge(request.operation.as_ref().map_or(0, Operation::bytes));
                    self.start(request)?;
                }
                None if active.ring.rearm()? => {}
                None => {
                    again = false;
                    break;
                }
            }
        }
        let Some(active) = &mut self.active else { return Ok(()) };
        if again {
            active.ring.kick_again();
        }
        active.ring.signal()
    }

    /// Does a request at once or hands it to a worker.
    fn start(&mut self, request: Request) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Request { head, status, operation, .. } = request;
        let done = |result, to_guest| Done {
            head,
            status: status.clone(),
            generation: self.generation,
            result,
            to_guest,
        };
        let Some(disk) = &self.disk else { return self.finish(&done(Status::IoError, 0)) };
        let done = match operation {
            Err(refusal) => done(refusal, 0),
            Ok(_) if status.is_empty() => done(Status::IoError, 0),
            Ok(Operation::GetId(data)) => done(Status::Ok, data.write(&active.memory, &self.serial) as u64),
            Ok(Operation::Read { offset, data }) if self.cached_reads && data.len() <= INLINE_READ => {
                match disk.read_cached(&active.memory, offset, &data) {
                    Ok(Some(())) => done(Status::Ok, data.len()),
                    other => {
                        self.cached_reads &= other.is_ok();
                        self.submit(head, status, Operation::Read { offset, data });
                        return Ok(());
                    }
                }
            }
            Ok(operation) => {
                self.submit(head, status, operation);
                return Ok(());
            }
        };
        self.finish(&done)
    }

    fn submit(&mut self, head: u16, status: Buffers, operation: Operation) {
        let (Some(active), Some(disk)) = (&mut self.active, &self.disk) else { return };
        active.in_flight += 1;
        if let Operation::Write { data, .. } = &operation {
            add(&self.counters.bytes_from_guest, data.len());
        }
        let (disk, memory, sync) = (Arc::clone(disk), Arc::clone(&active.memory), active.sync);
        self.workers.submit(Job { disk, head, status, generation: self.generation, memory, operation, sync });
    }

    fn finish(&mut self, done: &Done) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        add(&self.counters.requests, 1);
        add(&self.counters.bytes_to_guest, done.to_guest);
        if done.result != Status::Ok {
            add(&self.counters.errors, 1);
        }
        let written = done.status.write(&active.memory, &[done.result as u8]) as u64;
        // What is said to be written starts at the first byte (2.7.8.2), so without the data it is at most the status alone.
        let written = if done.to_guest > 0 { done.to_guest + written } else { written };
        active.ring.complete(done.head, u32::try_from(written).unwrap_or(u32::MAX))
    }
}

/// Does a job on a worker thread.
fn run(job: Job) -> Done {
    let Job { disk, head, status, generation, memory, operation, sync } = job;
    let mut to_guest = 0;
    let result = match &operation {
        Operation::Read { offset, data } => {
            disk.read(&memory, *offset, data).inspect(|()| to_guest = data.len())
        }
        Operation::Write { offset, data } => disk.write(&memory, *offset, data),
        Operation::WriteZeroes(extents) => disk.write_zeroes(extents),
        Operation::Discard(extents) => disk.discard(extents),
        Operation::Flush => disk.flush(),
        Operation::GetId(_) => Ok(()),
    };
    let result = match operation {
        Operation::Write { .. } | Operation::WriteZeroes(_) if sync => result.and_then(|()| disk.flush()),
        _ => result,
    };
    let result = match result {
        Ok(()) => Status::Ok,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Status::Unsupported,
        Err(_) => Status::IoError,
    };
    Done { head, status, generation, result, to_guest }
}

impl Device for Block {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> u32 {
        2
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let always = RING_FEATURES | F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH;
        always | if self.readonly { F_RO } else { F_DISCARD | F_WRITE_ZEROES }
    }

    /// `struct virtio_blk_config` (5.2.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0_u8; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.bytes / SECTOR).to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Physical blocks of 2^3 sectors, so that file systems align to the host's pages; aligned at 0; best in units of one.
        put(24, &[3, 0]);
        put(26, &8_u16.to_le_bytes());
        put(34, &1_u16.to_le_bytes());
        if !self.readonly {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &MAX_EXTENTS.to_le_bytes());
            put(44, &8_u32.to_le_bytes());
            put(48, &MAX_ZERO_SECTORS.to_le_bytes());
            put(52, &MAX_EXTENTS.to_le_bytes());
            put(56, &[1]);
        }
        super::config::read(&config, offset, data);
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        let queue = super::config::required_queue(&self.name, &mut queues, 0)?;
        let ring = Ring::new(&self.name, queue, features, &memory, &interrupt)?;
        self.active =
            Some(Active { ring, memory: Arc::new(memory), sync: features & F_FLUSH == 0, in_flight: 0 });
        Ok(())
    }

    fn kick(&mut self, _: u16) -> Result<(), DeviceError> {
        self.process()
    }

    fn watches(&self) -> Vec<Watch> {
        match &self.active {
            Some(_) => {
                [self.workers.watch(TOKEN_DONE)].into_iter().chain(self.limiter.watch(TOKEN_LIMIT)).collect()
            }
            None => Vec::new(),
        }
    }

    fn ready(&mut self, token: u64) -> Result<(), DeviceError> {
        if token == TOKEN_LIMIT {
            self.limiter.expired();
        }
        for done in self.workers.take() {
            // One from before a reset belongs to nobody any more.
            if done.generation == self.generation {
                if let Some(active) = &mut self.active {
                    active.in_flight = active.in_flight.saturating_sub(1);
                }
                self.finish(&done)?;
            }
        }
        self.process()
    }

    fn withdraw(&mut self) -> Result<(), DeviceError> {
        // Jobs that were handed over have it still.
        self.disk = None;
        self.process()
    }

    /// Waits for what is under way, so that nothing is written to memory that the driver has taken back; at most
    /// 5 seconds, for a disk that hangs must not hang the machine.
    fn reset(&mut self) {
        self.active = None;
        self.generation += 1;
        // After the time limit the generation still keeps late results out of the new rings.
        let _ = self.workers.cancel(RESET_WAIT);
    }
}
