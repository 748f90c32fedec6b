//! Who is in the jail already: the guest runs when all threads are.

use super::JailError;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

struct State {
    /// Threads that exist, or are about to, and are not restricted.
    outside: usize,
    failed: bool,
    failure: Option<JailError>,
}

/// Counts threads in.
pub struct Roll {
    state: Mutex<State>,
    changed: Condvar,
}

impl Roll {
    /// Waits for `outside` threads, and those that are announced.
    pub fn new(outside: usize) -> Self {
        let state = State { outside, failed: false, failure: None };
        Roll { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole at each moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more thread is about to be started.
    pub fn expect_one(&self) {
        self.lock().outside += 1;
    }

    /// A thread is in, or cannot be restricted.
    pub fn entered(&self, result: Result<(), JailError>) {
        let mut state = self.lock();
        state.outside = state.outside.saturating_sub(1);
        if let Err(error) = result {
            state.failed = true;
            state.failure.get_or_insert(error);
        }
        if state.outside == 0 || state.failed {
            self.changed.notify_all();
        }
    }

    /// Waits until all are in; false when one cannot be restricted.
    pub fn all_in(&self) -> bool {
        let mut state = self.lock();
        while state.outside > 0 && !state.failed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.failed
    }

    /// The first failure, for one caller.
    pub fn failure(&self) -> Option<JailError> {
        self.lock().failure.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn nobody_goes_on_before_the_last_is_in() {
        let (roll, last) = (Arc::new(Roll::new(1)), Arc::new(AtomicBool::new(false)));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                roll.expect_one();
                let (roll, last) = (Arc::clone(&roll), Arc::clone(&last));
                std::thread::spawn(move || {
                    roll.entered(Ok(()));
                    roll.all_in() && last.load(Ordering::SeqCst)
                })
            })
            .collect();
        last.store(true, Ordering::SeqCst);
        roll.entered(Ok(()));
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        assert!(roll.failure().is_none());
    }

    #[test]
    fn a_thread_that_cannot_be_restricted_stops_all() {
        let roll = Roll::new(2);
        let failure = |thread: &str| JailError::Thread { thread: thread.into(), reason: "x".into() };
        roll.entered(Err(failure("first")));
        assert!(!roll.all_in());
        roll.entered(Err(failure("second")));
        assert!(roll.failure().unwrap().to_string().contains("first"));
        assert!(roll.failure().is_none());
    }
}
