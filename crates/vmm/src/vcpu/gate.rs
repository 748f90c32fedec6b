//! Stops all vCPUs where nothing is half done, and lets them go on.
//!
//! ```text
//!   control: close() ── immediate_exit = 1, then SIGRTMIN ─► vCPU thread: KVM_RUN finishes the access under way and returns EINTR
//!            waits, bounded ◄──────────── parked ◄────────── pass(): waits
//!            open() ── immediate_exit = 0, wakes ──────────► KVM_KVMCLOCK_CTRL, KVM_RUN
//! ```
//!
//! The flag and the signal are both needed: the signal reaches a thread inside KVM_RUN, the flag one that is on its way there. An
//! access to a device is completed before KVM looks at the flag (`Documentation/virt/kvm/api.rst`, `immediate_exit`).
#![expect(unsafe_code, reason = "sends signals to threads, and writes a flag that KVM shares with us")]

use crate::bus::lock;
use kvm_ioctls::VcpuFd;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// vCPUs that did not stop.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{running} of {all} virtual CPUs did not stop within {} s", limit.as_secs())]
pub struct StillRunning {
    running: usize,
    all: usize,
    limit: Duration,
}

/// What a gate needs of a vCPU.
struct Kick {
    thread: libc::pthread_t,
    /// `immediate_exit` in the vCPU's `kvm_run`.
    flag: *const AtomicU8,
}

// SAFETY: the pointer is used under the gate's lock only while the vCPU's thread, which owns what it points to, is between
// `enter` and `leave`; what it points to is atomic.
unsafe impl Send for Kick {}

#[derive(Default)]
struct Vcpu {
    kick: Option<Kick>,
    parked: bool,
    ended: bool,
}

struct State {
    closed: bool,
    vcpus: Vec<Vcpu>,
}

impl State {
    fn running(&self) -> usize {
        self.vcpus.iter().filter(|vcpu| !vcpu.parked && !vcpu.ended).count()
    }
}

/// The gate that all vCPUs of a machine pass.
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    exits: Vec<AtomicU64>,
}

extern "C" fn interrupted(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // That a handler has run is all it takes to make KVM_RUN return.
}

impl Gate {
    /// An open gate for `count` vCPUs. Takes SIGRTMIN for itself in the whole process.
    ///
    /// # Errors
    /// When the signal's handler cannot be set.
    pub fn new(count: usize) -> io::Result<Self> {
        register_signal_handler(SIGRTMIN(), interrupted).map_err(io::Error::from)?;
        let vcpus = (0..count).map(|_| Vcpu::default()).collect();
        let exits = (0..count).map(|_| AtomicU64::new(0)).collect();
        Ok(Gate { state: Mutex::new(State { closed: false, vcpus }), changed: Condvar::new(), exits })
    }

    /// The calling thread is that of vCPU `index` from now on.
    pub fn enter<'a>(&'a self, index: usize, vcpu: &mut VcpuFd) -> Passage<'a> {
        let flag: *const u8 = &raw const vcpu.get_kvm_run().immediate_exit;
        self.enter_with(index, flag.cast())
    }

    fn enter_with(&self, index: usize, flag: *const AtomicU8) -> Passage<'_> {
        // SAFETY: pthread_self(3) has no preconditions.
        let kick = Kick { thread: unsafe { libc::pthread_self() }, flag };
        let mut state = lock(&self.state);
        if state.closed {
            kick.flag(1);
        }
        state.vcpus[index].kick = Some(kick);
        Passage { gate: self, index }
    }

    /// Closes it and waits until all vCPUs stand still; where one does not within `limit`, it is open again.
    ///
    /// # Errors
    /// [`StillRunning`]
    pub fn close(&self, limit: Duration) -> Result<(), StillRunning> {
        let end = Instant::now() + limit;
        let mut state = lock(&self.state);
        state.closed = true;
        for kick in state.vcpus.iter().filter_map(|vcpu| vcpu.kick.as_ref()) {
            kick.flag(1);
            kick.signal();
        }
        while state.running() > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let error = StillRunning { running: state.running(), all: state.vcpus.len(), limit };
                drop(state);
                self.open();
                return Err(error);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Lets the vCPUs go on.
    pub fn open(&self) {
        let mut state = lock(&self.state);
        state.closed = false;
        for kick in state.vcpus.iter().filter_map(|vcpu| vcpu.kick.as_ref()) {
            kick.flag(0);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// How often each vCPU has left the guest for this program.
    pub fn exits(&self) -> Vec<u64> {
        self.exits.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Kick {
    fn flag(&self, value: u8) {
        // SAFETY: the vCPU's thread keeps the flag mapped until it has left, see `Passage`.
        unsafe { &*self.flag }.store(value, Ordering::SeqCst);
    }

    fn signal(&self) {
        // SAFETY: the thread has not ended: it takes its entry away first, under the lock that our caller holds. It fails for a
        // signal that does not exist only.
        unsafe { libc::pthread_kill(self.thread, SIGRTMIN()) };
    }
}

/// A vCPU's thread at the gate. Must be dropped before its vCPU.
pub struct Passage<'a> {
    gate: &'a Gate,
    index: usize,
}

impl Passage<'_> {
    /// Waits while the gate is closed; says whether it was. To be called when KVM_RUN was interrupted.
    pub fn pass(&self) -> bool {
        let mut state = lock(&self.gate.state);
        if !state.closed {
            return false;
        }
        state.vcpus[self.index].parked = true;
        self.gate.changed.notify_all();
        while state.closed {
            state = self.gate.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.vcpus[self.index].parked = false;
        true
    }

    /// One exit more.
    pub fn count(&self) {
        self.gate.exits[self.index].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        let vcpu = &mut state.vcpus[self.index];
        (vcpu.kick, vcpu.ended) = (None, true);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Stands for KVM_RUN: goes on until the flag is set.
    fn run(gate: &Gate, index: usize, stop: &AtomicBool, resumed: &AtomicU64) {
        let flag = AtomicU8::new(0);
        let passage = gate.enter_with(index, &raw const flag);
        while !stop.load(Ordering::SeqCst) {
            passage.count();
            if flag.load(Ordering::SeqCst) == 1 && passage.pass() {
                resumed.fetch_add(1, Ordering::SeqCst);
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn nobody_runs_behind_a_closed_gate() {
        let gate = Gate::new(3).unwrap();
        let (stop, resumed) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for index in 0..3 {
                let (gate, stop, resumed) = (&gate, &stop, &resumed);
                scope.spawn(move || run(gate, index, stop, resumed));
            }
            for round in 0..50 {
                gate.close(Duration::from_secs(60)).unwrap();
                let before = gate.exits();
                std::thread::yield_now();
                assert_eq!(gate.exits(), before, "round {round}");
                gate.open();
            }
            while gate.exits().contains(&0) {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::SeqCst);
        });
        assert!(resumed.load(Ordering::SeqCst) > 0);
        gate.close(Duration::ZERO).unwrap();
    }

    #[test]
    fn one_that_does_not_stop_is_told_and_the_gate_is_open_again() {
        let gate = Gate::new(2).unwrap();
        let flag = AtomicU8::new(0);
        let passage = gate.enter_with(0, &raw const flag);
        let error = gate.close(Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().starts_with("2 of 2 virtual CPUs"), "{error}");
        assert!(!passage.pass());
        assert_eq!(flag.load(Ordering::SeqCst), 0);
    }
}
