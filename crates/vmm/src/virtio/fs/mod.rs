//! The file system device (virtio 1.2, section 5.11): a directory of the host in the guest, by FUSE requests over a queue.
//!
//! ```text
//!   queues 0 (urgent) and 1 ─► kick ─► workers ─► Server::handle ─► used ring, interrupt
//!                              event loop   threads: the host's disk may take its time
//!   shared memory 0 ◄───────────────────── DAX window: files mapped on request
//! ```
//!
//! Requests are taken off a queue on the event loop and answered by threads, which complete them by themselves: an answer does not
//! wait for the event loop. What a request means is the [`server::Server`]'s business; [`share::Share`] is the one in use.

pub mod server;
pub mod share;
pub mod wire;

#[cfg(test)]
mod tests;

use super::counters::Counters;
use super::device::{Activation, ActiveQueue, Device, DeviceError, Interrupt, SharedMemory, Watch};
use super::ring::{Chain, RING_FEATURES, Ring};
use super::workers::{ThreadStart, Workers};
use server::{Gone, Request, Server};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vm_memory::GuestMemoryMmap;

/// Device type (virtio 1.2, 5).
const KIND: u32 = 26;

/// Bytes of the tag in the configuration space (5.11.4).
pub const MAX_TAG: usize = 36;

/// Id of the DAX window among the device's shared memory regions (5.11.6.4, VIRTIO_FS_SHMCAP_ID_CACHE).
const WINDOW_ID: u8 = 0;

/// The urgent queue, and one for requests: a write of 256 pages needs about 260 descriptors.
const QUEUE_SIZES: [u16; 2] = [64, 512];

/// How long a reset waits for requests under way.
const RESET_LIMIT: Duration = Duration::from_secs(5);

/// A device that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// a tag has 1 to 36 bytes, not {0}
    #[error("a tag has 1 to {MAX_TAG} bytes, not {0}")]
    Tag(usize),
    /// while starting a thread: {0}
    #[error("while starting a thread: {0}")]
    Thread(std::io::Error),
}

/// The device.
pub struct Fs {
    name: String,
    config: [u8; MAX_TAG + 4],
    window: Option<SharedMemory>,
    server: Arc<dyn Server>,
    workers: Workers<Job, ()>,
    counters: Arc<Counters>,
    active: Vec<Option<Arc<Queue>>>,
}

/// A queue in use, by the event loop and by the workers.
struct Queue {
    ring: Mutex<State>,
    /// Requests that workers have.
    busy: AtomicUsize,
}

struct State {
    ring: Ring,
    /// Requests were left in the ring because enough are under way.
    more: bool,
    /// What a worker could not tell the transport.
    failed: Option<DeviceError>,
}

struct Job {
    queue: Arc<Queue>,
    chain: Chain,
    server: Arc<dyn Server>,
}

impl Fs {
    /// A device with `tag`, by which the guest mounts it, answered by `server` on `threads` threads, each of which calls `start` first.
    /// `window` is what `server` maps files into.
    ///
    /// # Errors
    /// When the tag is empty or too long, or no thread can be started.
    pub fn new(
        tag: &str,
        server: Arc<dyn Server>,
        window: Option<SharedMemory>,
        threads: usize,
        start: &ThreadStart,
    ) -> Result<Self, FsError> {
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(FsError::Tag(tag.len()));
        }
        let mut config = [0; MAX_TAG + 4];
        config[..tag.len()].copy_from_slice(tag.as_bytes());
        // num_request_queues.
        config[MAX_TAG] = 1;
        let first = Arc::clone(&server);
        let before = move || first.enter_thread();
        let run = |job: Job| job.queue.answer(&job.chain, &*job.server);
        let workers = Workers::entering(&format!("fs {tag}"), threads, start, before, run);
        let workers = workers.map_err(FsError::Thread)?;
        Ok(Self {
            name: format!("fs {tag}"),
            config,
            window,
            server,
            workers,
            counters: Arc::default(),
            active: Vec::new(),
        })
    }
}

/// What a driver that starts and stops queues one by one needs: vhost-user's.
impl Fs {
    /// Serves a queue from now on.
    ///
    /// # Errors
    /// When its rings do not lie in guest memory.
    pub fn start(
        &mut self,
        queue: ActiveQueue,
        features: u64,
        memory: &GuestMemoryMmap,
        interrupt: &Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        let index = queue.index;
        let ring = Ring::new(&self.name, queue, features, memory, interrupt)?.counted(&self.counters);
        let state = State { ring, more: false, failed: None };
        let place = usize::from(index);
        if self.active.len() <= place {
            self.active.resize_with(place + 1, || None);
        }
        self.active[place] = Some(Arc::new(Queue { ring: Mutex::new(state), busy: AtomicUsize::new(0) }));
        self.kick(index)
    }

    /// Stops serving queue `index` when what is under way there has ended, or after 5 seconds; gives the index of the next request.
    pub fn stop(&mut self, index: u16) -> Option<u16> {
        let queue = self.active.get_mut(usize::from(index))?.take()?;
        let end = Instant::now() + RESET_LIMIT;
        while queue.busy.load(Ordering::Acquire) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let position = queue.lock().ring.position();
        Some(position)
    }

    /// Guest memory is another from now on.
    ///
    /// # Errors
    /// When a queue's rings do not lie in it.
    pub fn set_memory(&mut self, memory: &GuestMemoryMmap) -> Result<(), DeviceError> {
        self.active.iter().flatten().try_for_each(|queue| queue.lock().ring.set_memory(memory))
    }
}

impl Device for Fs {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> u32 {
        KIND
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.config.get(offset..)).unwrap_or_default();
        let count = rest.len().min(data.len());
        data[..count].copy_from_slice(&rest[..count]);
    }

    fn shared_memory(&self) -> Option<SharedMemory> {
        self.window.map(|window| SharedMemory { id: WINDOW_ID, ..window })
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, queues, features, interrupt } = activation;
        queues.into_iter().flatten().try_for_each(|queue| self.start(queue, features, &memory, &interrupt))
    }

    fn kick(&mut self, index: u16) -> Result<(), DeviceError> {
        let Some(Some(queue)) = self.active.get(usize::from(index)) else { return Ok(()) };
        let mut state = queue.lock();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        state.more = false;
        loop {
            if queue.busy.load(Ordering::Acquire) >= usize::from(state.ring.size()) {
                // A driver that offers descriptors twice would fill our memory with jobs.
                state.more = true;
                return Ok(());
            }
            let Some(chain) = state.ring.next()? else {
                if state.ring.rearm()? {
                    continue;
                }
                return Ok(());
            };
            queue.busy.fetch_add(1, Ordering::AcqRel);
            let server = Arc::clone(&self.server);
            self.workers.submit(Job { queue: Arc::clone(queue), chain, server });
        }
    }

    fn watches(&self) -> Vec<Watch> {
        // The workers complete requests by themselves.
        Vec::new()
    }

    fn withdraw(&mut self) -> Result<(), DeviceError> {
        // Requests under way keep the directory for as long as they take.
        std::mem::replace(&mut self.server, Arc::new(Gone)).reset();
        Ok(())
    }

    fn reset(&mut self) {
        // One that hangs on the disk for longer goes on by itself; its ring is not used any more by anybody else.
        let _ = self.workers.cancel(RESET_LIMIT);
        self.active.clear();
        self.server.reset();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A ring is whole whenever its lock is given back.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on a worker.
    fn answer(&self, chain: &Chain, server: &dyn Server) {
        let memory = self.lock().ring.memory().clone();
        let request = Request::new(&memory, chain.readable.clone(), chain.writable.clone());
        let written = server.handle(&request);
        let mut state = self.lock();
        self.busy.fetch_sub(1, Ordering::AcqRel);
        let done = state.ring.complete(chain.head, written).and_then(|()| state.ring.signal());
        if let Err(error) = done {
            state.failed = Some(error);
        }
        if state.more || state.failed.is_some() {
            state.ring.kick_again();
        }
    }
}
