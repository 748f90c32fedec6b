//! Threads for what may take long: a device hands jobs over and is told through an eventfd when they are done.
//!
//! ```text
//!   device (event loop) ── submit(job) ─► queue ─► worker thread: run(job) ─► results ─┐
//!          ▲── ready(token): take() ◄── eventfd ◄──────────────────────────────────────┘
//! ```
//!
//! Threads and not io_uring: they need no system call that a host may have turned off (`kernel.io_uring_disabled`), a seccomp
//! filter sees each of their calls (it sees none of a ring's), and an idle one costs a few pages. They start with the device,
//! so before the event loop's own filter is set; the first thing that each does is what its [`ThreadStart`] says: it sets its filter.

use super::device::Watch;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Stack of a worker in bytes; only touched pages count.
const STACK: usize = 128 << 10;

/// What a new thread does first: sets its seccomp filter.
pub type FirstStep = Box<dyn FnOnce() + Send>;

/// What a thread is for.
pub type Work = Box<dyn FnOnce() + Send>;

/// Where the threads of a device come from: they are new, or wait already ([`super::spares`]).
pub trait Threads: Send + Sync {
    /// Has a thread do `work`; a new one is named `name`, and begins with `before`, while it is not restricted yet.
    ///
    /// # Errors
    /// When there is none to be had.
    fn run(&self, name: &str, before: FirstStep, work: Work) -> io::Result<()>;
}

/// The threads of one kind of device.
pub type ThreadStart = Arc<dyn Threads>;

/// New threads. The function is called once for each, with its name, by the thread that is about to start it; the new one begins with
/// what it returns.
impl<F: Fn(&str) -> FirstStep + Send + Sync> Threads for F {
    fn run(&self, name: &str, before: FirstStep, work: Work) -> io::Result<()> {
        let restrict = self(name);
        let thread = std::thread::Builder::new().name(name.chars().take(15).collect()).stack_size(STACK);
        thread.spawn(move || {
            before();
            restrict();
            work();
        })?;
        Ok(())
    }
}

/// Threads that start without more ado.
pub fn no_thread_start() -> ThreadStart {
    Arc::new(|_: &str| -> FirstStep { Box::new(|| {}) })
}

/// For devices that have none.
pub fn no_threads() -> ThreadStart {
    struct None;
    impl Threads for None {
        fn run(&self, _: &str, _: FirstStep, _: Work) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
    Arc::new(None)
}

struct State<J, R> {
    jobs: VecDeque<J>,
    results: Vec<R>,
    running: usize,
    stop: bool,
}

struct Shared<J, R> {
    state: Mutex<State<J, R>>,
    changed: Condvar,
    done: EventFd,
}

impl<J, R> Shared<J, R> {
    fn lock(&self) -> MutexGuard<'_, State<J, R>> {
        // The state is only queues, whole at each moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fixed number of threads that turn jobs `J` into results `R`.
pub struct Workers<J, R> {
    shared: Arc<Shared<J, R>>,
}

impl<J: Send + 'static, R: Send + 'static> Workers<J, R> {
    /// Starts `threads` threads named `name` (15 bytes at most are shown).
    ///
    /// # Errors
    /// When a thread or the eventfd cannot be made.
    pub fn new(
        name: &str,
        threads: usize,
        start: &ThreadStart,
        run: impl Fn(J) -> R + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::entering(name, threads, start, || {}, run)
    }

    /// The same with threads that begin with `before`, while they are not restricted yet.
    ///
    /// # Errors
    /// When a thread or the eventfd cannot be made.
    pub fn entering(
        name: &str,
        threads: usize,
        start: &ThreadStart,
        before: impl Fn() + Clone + Send + 'static,
        run: impl Fn(J) -> R + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = State { jobs: VecDeque::new(), results: Vec::new(), running: 0, stop: false };
        let done = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let workers =
            Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), done }) };
        let run = Arc::new(run);
        for _ in 0..threads.max(1) {
            let (shared, run) = (Arc::clone(&workers.shared), Arc::clone(&run));
            start.run(name, Box::new(before.clone()), Box::new(move || work(&shared, run.as_ref())))?;
        }
        Ok(workers)
    }

    /// Hands a job over. How many are under way is the caller's to bound.
    pub fn submit(&self, job: J) {
        self.shared.lock().jobs.push_back(job);
        self.shared.changed.notify_all();
    }

    /// What to watch: readable when results are there.
    pub fn watch(&self, token: u64) -> Watch {
        Watch { fd: self.shared.done.as_raw_fd(), token, readable: true, writable: false }
    }

    /// The results so far.
    pub fn take(&self) -> Vec<R> {
        // Read before the results are taken, so that one that comes in between signals again.
        let _ = self.shared.done.read();
        std::mem::take(&mut self.shared.lock().results)
    }

    /// Forgets all jobs that have not begun and all results, and waits until no job is under way.
    ///
    /// # Errors
    /// `TimedOut` when one is still under way after `limit`; it goes on by itself and its result stays to be taken.
    pub fn cancel(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.jobs.clear();
        while state.running > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.results.clear();
        drop(state);
        let _ = self.shared.done.read();
        Ok(())
    }
}

impl<J, R> Drop for Workers<J, R> {
    fn drop(&mut self) {
        // The threads end after what they have under way; waiting for a hung disk would hang the machine.
        let mut state = self.shared.lock();
        state.stop = true;
        state.jobs.clear();
        self.shared.changed.notify_all();
    }
}

fn work<J, R>(shared: &Shared<J, R>, run: &(impl Fn(J) -> R + ?Sized)) {
    let mut state = shared.lock();
    loop {
        if state.stop {
            return;
        }
        let Some(job) = state.jobs.pop_front() else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.running += 1;
        drop(state);
        let result = run(job);
        state = shared.lock();
        state.running -= 1;
        state.results.push(result);
        // It fails only when it is already signalled 2^64 - 2 times.
        let _ = shared.done.write(1);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn wait<J: Send + 'static, R: Send + 'static>(workers: &Workers<J, R>, count: usize) -> Vec<R> {
        let mut all = Vec::new();
        while all.len() < count {
            std::thread::sleep(Duration::from_millis(1));
            all.extend(workers.take());
        }
        all
    }

    #[test]
    fn all_jobs_are_done_and_each_thread_starts_with_the_hook() {
        let started = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&started);
        let hook: ThreadStart = Arc::new(move |name: &str| -> FirstStep {
            assert_eq!(name, "w");
            let count = Arc::clone(&count);
            Box::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })
        });
        let workers = Workers::new("w", 3, &hook, |n: u32| n * 2).unwrap();
        (0..100).for_each(|n| workers.submit(n));
        let mut all = wait(&workers, 100);
        all.sort_unstable();
        assert_eq!(all, (0..100).map(|n| n * 2).collect::<Vec<_>>());
        assert!(started.load(Ordering::SeqCst) >= 1);
    }

    #[test]
    fn cancel_forgets_what_has_not_begun_and_waits_for_what_has() {
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let run = move |n: u32| {
            gate.lock().unwrap().recv().unwrap();
            n
        };
        let workers = Workers::new("w", 1, &no_thread_start(), run).unwrap();
        (0..5).for_each(|n| workers.submit(n));
        while workers.shared.lock().running == 0 {
            std::thread::yield_now();
        }
        let late = workers.cancel(Duration::ZERO).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        go.send(()).unwrap();
        workers.cancel(Duration::from_secs(60)).unwrap();
        assert!(workers.take().is_empty());
        go.send(()).unwrap();
        workers.submit(9);
        assert_eq!(wait(&workers, 1), [9]);
    }
}
