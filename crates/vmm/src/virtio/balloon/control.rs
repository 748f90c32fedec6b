//! What the rest of the machine may do with a balloon while the event loop owns it.

use crate::virtio::device::Watch;
use crate::virtio::ring::Buffers;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Kinds of statistics that are kept: tags 0 (swapped in) to 15; Linux 6.12 knows those below 16
/// (`include/uapi/linux/virtio_balloon.h`).
pub const STATISTICS: usize = 16;

/// Bytes of one entry: tag u16, value u64 (virtio 1.2, 5.5.6.3).
const ENTRY: usize = 10;

/// What the guest said last, by tag; memory is in bytes.
pub type Statistics = [Option<u64>; STATISTICS];

/// What is wanted of the device.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Pages that the balloon is to have.
    pub target: u32,
    /// Whether new statistics are wanted.
    pub statistics: bool,
}

/// What device and control share.
pub struct Shared {
    changed: EventFd,
    target: AtomicU32,
    want_statistics: AtomicBool,
    actual: AtomicU32,
    freed: AtomicU64,
    statistics: Mutex<Statistics>,
}

impl Shared {
    /// An empty balloon.
    ///
    /// # Errors
    /// When no eventfd can be made.
    pub fn new() -> io::Result<Self> {
        let changed = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self {
            changed,
            target: AtomicU32::new(0),
            want_statistics: AtomicBool::new(false),
            actual: AtomicU32::new(0),
            freed: AtomicU64::new(0),
            statistics: Mutex::default(),
        })
    }

    pub(super) fn watch(&self, token: u64) -> Watch {
        Watch { fd: self.changed.as_raw_fd(), token, readable: true, writable: false }
    }

    pub(super) fn take_wish(&self) -> Wish {
        // Read first: a wish that comes in between signals again.
        let _ = self.changed.read();
        let statistics = self.want_statistics.swap(false, Ordering::AcqRel);
        Wish { target: self.target.load(Ordering::Acquire), statistics }
    }

    pub(super) fn actual(&self) -> u32 {
        self.actual.load(Ordering::Relaxed)
    }

    pub(super) fn set_actual(&self, pages: u32) {
        self.actual.store(pages, Ordering::Relaxed);
    }

    pub(super) fn count_freed(&self, bytes: u64) {
        self.freed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reads the driver's entries; those of unknown kind and what is behind the last whole one are left out.
    pub(super) fn take_statistics(&self, memory: &GuestMemoryMmap, buffer: &Buffers) {
        let mut raw = [0; ENTRY * 4 * STATISTICS];
        let len = buffer.read(memory, &mut raw);
        let mut statistics = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in raw[..len].chunks_exact(ENTRY) {
            let mut value = [0; 8];
            value.copy_from_slice(&entry[2..]);
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            if let Some(place) = statistics.get_mut(usize::from(tag)) {
                *place = Some(u64::from_le_bytes(value));
            }
        }
    }
}

/// Controls a balloon from any thread.
#[derive(Clone)]
pub struct BalloonControl {
    shared: Arc<Shared>,
}

impl BalloonControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Asks the guest to give up `bytes`, or to take back what is above; whole 4 KiB pages, at most 16 TiB.
    pub fn set_target(&self, bytes: u64) {
        self.shared.target.store(u32::try_from(bytes >> 12).unwrap_or(u32::MAX), Ordering::Release);
        let _ = self.shared.changed.write(1);
    }

    /// Bytes that the guest says it has given up so far.
    pub fn actual(&self) -> u64 {
        u64::from(self.shared.actual()) << 12
    }

    /// Bytes that went back to the host since the start, by balloon and by reports; a page that was used again and freed again
    /// counts again.
    pub fn freed(&self) -> u64 {
        self.shared.freed.load(Ordering::Relaxed)
    }

    /// Asks the guest for new statistics; it sends them in its own time.
    pub fn request_statistics(&self) {
        self.shared.want_statistics.store(true, Ordering::Release);
        let _ = self.shared.changed.write(1);
    }

    /// What the guest said last. Not to be believed, like all that it says.
    pub fn statistics(&self) -> Statistics {
        *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
