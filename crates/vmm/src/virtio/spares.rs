//! Threads that wait for a device to come.
//!
//! ```text
//!   start of the machine: Spares::new ─► threads, each with the filter of its role ─► wait
//!   a device comes:       Workers::new ─► Threads::run ─► one of them works for it until it goes ─► waits again
//! ```
//!
//! In the jail no thread can start another, so those of devices that may come later are started with the machine. They are restricted like
//! any other from their beginning: what they will be for is known, only not for which file.

use super::workers::{FirstStep, ThreadStart, Threads, Work};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a new device waits for a thread of one that has just gone: it only has to see that.
const RETURN_LIMIT: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    /// Threads that wait and have no work yet.
    idle: usize,
    work: VecDeque<Work>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole at each moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waiting threads of one kind.
pub struct Spares(Arc<Shared>);

impl Spares {
    /// Starts `count` threads as `start` says; each begins with `before`, while it is not restricted yet.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(
        name: &str,
        count: usize,
        start: &ThreadStart,
        before: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        for _ in 0..count {
            let mine = Arc::clone(&shared);
            start.run(name, Box::new(before.clone()), Box::new(move || wait(&mine)))?;
        }
        Ok(Spares(shared))
    }
}

impl Threads for Spares {
    /// `before` was done when the thread was started: all of one kind begin alike.
    fn run(&self, _: &str, _: FirstStep, work: Work) -> io::Result<()> {
        let end = Instant::now() + RETURN_LIMIT;
        let mut state = self.0.lock();
        while state.idle == 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let hung = "those of a device that was removed still wait for the host's disk";
                return Err(io::Error::new(io::ErrorKind::TimedOut, hung));
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.idle -= 1;
        state.work.push_back(work);
        self.0.changed.notify_all();
        Ok(())
    }
}

/// The life of a waiting thread; it ends with the process.
fn wait(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        state.idle += 1;
        shared.changed.notify_all();
        let work = loop {
            match state.work.pop_front() {
                Some(work) => break work,
                None => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        work();
        state = shared.lock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::workers::{Workers, no_thread_start};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn threads_serve_one_device_after_the_other() {
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let before = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let spares: ThreadStart = Arc::new(Spares::new("w", 2, &no_thread_start(), before).unwrap());
        for round in 0..20u32 {
            let workers = Workers::new("x", 2, &spares, |n: u32| n + 1).unwrap();
            (0..10).for_each(|n| workers.submit(round + n));
            let mut results = Vec::new();
            while results.len() < 10 {
                results.extend(workers.take());
                std::thread::yield_now();
            }
            results.sort_unstable();
            assert_eq!(results, (0..10).map(|n| round + n + 1).collect::<Vec<_>>());
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn without_a_waiting_thread_there_is_no_device() {
        let spares: ThreadStart = Arc::new(Spares::new("w", 1, &no_thread_start(), || {}).unwrap());
        let error = Workers::new("x", 2, &spares, |n: u32| n).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // The one that was there is back.
        Workers::new("x", 1, &spares, |n: u32| n).unwrap();
    }
}
