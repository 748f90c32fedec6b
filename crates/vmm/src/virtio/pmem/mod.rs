//! Persistent memory: virtio-pmem (virtio 1.2, 5.19), by which a guest maps an image of the host directly (DAX).
//!
//! ```text
//!   guest loads and stores ──► a region of guest memory, mapped by the machine: the device never sees them
//!   flush request ─► request::is_flush ─┬─ nothing to make durable ─────────► 0
//!                                       └─ Flush::File ─► worker: fdatasync ─► 0, or all ones when it failed
//! ```
//!
//! A read-only image and a private copy-on-write mapping have nothing to flush. For a shared writable file fdatasync(2) writes
//! the pages that the guest has dirtied through the mapping. Requests that wait together are served by one fdatasync.

pub mod request;
#[cfg(test)]
mod tests;

use super::counters::Counters;
use super::device::{Activation, Device, DeviceError, Watch};
use super::ring::{BUDGET, Buffers, RING_FEATURES, Ring};
use super::workers::{ThreadStart, Workers};
use request::Answer;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

const QUEUE_SIZE: u16 = 64;
const TOKEN_DONE: u64 = 0;
/// How long a reset waits for a flush under way.
const RESET_WAIT: Duration = Duration::from_secs(5);

/// What a flush has to do.
#[derive(Debug)]
pub enum Flush {
    /// Nothing: the image is read-only, or a private copy that ends with the machine.
    Nothing,
    /// Write the pages of this file, which is mapped shared and writable.
    File(File),
}

/// Requests that one fdatasync answers.
struct Batch {
    file: Arc<File>,
    generation: u64,
    requests: Vec<(u16, Buffers)>,
}

/// A batch that was done.
struct Flushed {
    generation: u64,
    requests: Vec<(u16, Buffers)>,
    durable: bool,
}

struct Active {
    ring: Ring,
    waiting: Vec<(u16, Buffers)>,
    busy: bool,
}

/// The device.
pub struct Pmem {
    name: String,
    start: u64,
    size: u64,
    /// What is flushed; `None` when there is nothing to flush any more, or never was.
    file: Option<Arc<File>>,
    workers: Option<Workers<Batch, Flushed>>,
    withdrawn: bool,
    generation: u64,
    counters: Arc<Counters>,
    active: Option<Active>,
}

impl Pmem {
    /// Persistent memory that the machine has mapped at guest address `start`, of `size` bytes.
    ///
    /// # Errors
    /// When the thread that flushes cannot be started; without something to flush there is none.
    pub fn new(name: &str, start: u64, size: u64, flush: Flush, thread: &ThreadStart) -> io::Result<Self> {
        let run = |Batch { file, generation, requests }| {
            let durable = rustix::fs::fdatasync(&file).is_ok();
            Flushed { generation, requests, durable }
        };
        let (file, workers) = match flush {
            Flush::Nothing => (None, None),
            Flush::File(file) => (Some(Arc::new(file)), Some(Workers::new("pmem", 1, thread, run)?)),
        };
        Ok(Self {
            file,
            withdrawn: false,
            name: format!("pmem {name}"),
            start,
            size,
            workers,
            generation: 0,
            counters: Arc::default(),
            active: None,
        })
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut left = BUDGET;
        while active.waiting.len() < usize::from(active.ring.size()) && left > 0 {
            left -= 1;
            match active.ring.next()? {
                Some(chain) => {
                    let flush = request::is_flush(active.ring.memory(), &chain.readable);
                    if flush && self.file.is_some() {
                        active.waiting.push((chain.head, chain.writable));
                    } else {
                        let answer = if flush && !self.withdrawn { Answer::Ok } else { Answer::Failed };
                        let written = answer.write(active.ring.memory(), &chain.writable);
                        active.ring.complete(chain.head, written)?;
                    }
                }
                None if active.ring.rearm()? => {}
                None => break,
            }
        }
        if left == 0 {
            active.ring.kick_again();
        }
        if let (Some(workers), Some(file)) = (&self.workers, &self.file)
            && !active.busy
            && !active.waiting.is_empty()
        {
            active.busy = true;
            let requests = std::mem::take(&mut active.waiting);
            workers.submit(Batch { file: Arc::clone(file), generation: self.generation, requests });
        }
        active.ring.signal()
    }
}

impl Device for Pmem {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> u32 {
        27
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    /// `struct virtio_pmem_config` (5.19.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = [self.start.to_le_bytes(), self.size.to_le_bytes()].concat();
        super::config::read(&config, offset, data);
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        let queue = super::config::required_queue(&self.name, &mut queues, 0)?;
        let ring = Ring::new(&self.name, queue, features, &memory, &interrupt)?.counted(&self.counters);
        self.active = Some(Active { ring, waiting: Vec::new(), busy: false });
        Ok(())
    }

    fn kick(&mut self, _: u16) -> Result<(), DeviceError> {
        self.process()
    }

    fn watches(&self) -> Vec<Watch> {
        match (&self.active, &self.workers) {
            (Some(_), Some(workers)) => vec![workers.watch(TOKEN_DONE)],
            _ => Vec::new(),
        }
    }

    fn ready(&mut self, _: u64) -> Result<(), DeviceError> {
        let done = self.workers.as_ref().map(Workers::take).unwrap_or_default();
        for batch in done {
            let Some(active) = self.active.as_mut().filter(|_| batch.generation == self.generation) else {
                continue;
            };
            active.busy = false;
            let answer = if batch.durable { Answer::Ok } else { Answer::Failed };
            for (head, room) in batch.requests {
                let written = answer.write(active.ring.memory(), &room);
                active.ring.complete(head, written)?;
            }
        }
        self.process()
    }

    fn withdraw(&mut self) -> Result<(), DeviceError> {
        self.withdrawn = true;
        self.file = None;
        if let Some(active) = &mut self.active {
            // They waited for a flush that was under way, and what they wrote since may not be durable.
            for (head, room) in std::mem::take(&mut active.waiting) {
                let written = Answer::Failed.write(active.ring.memory(), &room);
                active.ring.complete(head, written)?;
            }
        }
        self.process()
    }

    fn reset(&mut self) {
        self.active = None;
        self.generation += 1;
        if let Some(workers) = &self.workers {
            // A flush touches no guest memory; one that takes longer is recognized by its generation.
            let _ = workers.cancel(RESET_WAIT);
        }
    }
}
