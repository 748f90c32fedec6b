//! One build per key at a time, by `flock` on a file.
//!
//! The lock belongs to the open file, and the programs that a build starts inherit it: if the builder is killed,
//! its key stays taken until its last compiler has ended too, so nobody removes the directory under it.

use super::{StoreError, at};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for another build. A kernel build on one slow core stays below it.
const DEADLINE: Duration = Duration::from_secs(2 * 3600);

/// How often a taken lock is tried. `flock` has no deadline of its own.
const PAUSE: Duration = Duration::from_millis(100);

/// A held lock; released when it is dropped. If its holder is killed, it stays held while a child has it.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a program that another thread is just starting may have inherited it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes the lock, waiting for its holder. `waiting` is called once before the wait.
    ///
    /// # Errors
    /// Those of the file system, and [`StoreError::Busy`].
    pub(super) fn wait(path: &Path, waiting: impl FnOnce()) -> Result<Lock, StoreError> {
        if let Some(lock) = Lock::try_take(path)? {
            return Ok(lock);
        }
        waiting();
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            std::thread::sleep(PAUSE);
            if let Some(lock) = Lock::try_take(path)? {
                return Ok(lock);
            }
        }
        Err(StoreError::Busy(path.to_owned(), DEADLINE.as_secs()))
    }

    /// Takes the lock if nobody holds it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn try_take(path: &Path) -> Result<Option<Lock>, StoreError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(at("making the directory", parent))?;
        let failed = |error: Errno| at("locking", path)(error.into());
        loop {
            // Without O_CLOEXEC: children shall inherit it, see above.
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
            let file = open(path, flags, Mode::from_raw_mode(0o644)).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
            let inode = rustix::fs::fstat(&file).map_err(failed)?.st_ino;
            match fs::symlink_metadata(path) {
                Ok(now) if now.ino() == inode => return Ok(Some(Lock { file })),
                // `gc` removed the file between open and flock: this lock locks nothing.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("locking", path)(error)),
            }
        }
    }
}
