//! The files and directories that the guest has open.

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One open file or directory.
pub struct Handle {
    /// Opened for reading, writing or both.
    pub fd: OwnedFd,
    /// Whether writing is possible.
    pub writable: bool,
    /// Held while a directory is listed, which has a position.
    pub position: Mutex<()>,
}

/// All of them, by the number that the guest knows.
pub struct Handles {
    open: Mutex<BTreeMap<u64, Arc<Handle>>>,
    next: AtomicU64,
    budget: usize,
}

impl Handles {
    /// Allows `budget` open files.
    pub fn new(budget: usize) -> Self {
        Self { open: Mutex::default(), next: AtomicU64::new(1), budget }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Handle>>> {
        // Each change of the map is whole before the lock is given back.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a file opened with `flags`.
    ///
    /// # Errors
    /// ENFILE when the guest has too many files open.
    pub fn add(&self, fd: OwnedFd, flags: OFlags) -> Result<u64, Errno> {
        let mut open = self.lock();
        if open.len() >= self.budget {
            return Err(Errno::NFILE);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let writable = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        open.insert(id, Arc::new(Handle { fd, writable, position: Mutex::default() }));
        Ok(id)
    }

    /// An open file.
    pub fn get(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        self.lock().get(&id).cloned().ok_or(Errno::BADF)
    }

    /// Closes one, after what is being done with it.
    pub fn close(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// Closes all.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

impl Handle {
    /// Goes to a directory position that the host gave before.
    pub fn seek(&self, position: u64) -> Result<(), Errno> {
        rustix::fs::seek(&self.fd, SeekFrom::Start(position)).map(drop)
    }
}
