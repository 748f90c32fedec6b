//! Signals by raw number, and files that give them.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use super::{Result, check};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which signals a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalSet {
    /// No signal.
    Empty,
    /// SIGCHLD alone.
    Child,
    /// Every signal.
    Full,
}

fn signal_set(which: SignalSet) -> libc::sigset_t {
    // SAFETY: all-zero is a valid value; the calls below only write to the set.
    unsafe {
        let mut set = std::mem::zeroed();
        match which {
            SignalSet::Empty => libc::sigemptyset(&raw mut set),
            SignalSet::Child => libc::sigaddset(&raw mut set, libc::SIGCHLD),
            SignalSet::Full => libc::sigfillset(&raw mut set),
        };
        set
    }
}

/// Blocks exactly these signals.
pub fn block_signals(which: SignalSet) {
    let set = signal_set(which);
    // SAFETY: set is valid; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Makes a write to a pipe that nobody reads an error, not a signal.
pub fn ignore_sigpipe() {
    // SAFETY: an ignored signal runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Gives SIGPIPE, which the agent ignores, its default action back: an ignored signal stays so over execve(2).
pub fn default_sigpipe() {
    // SAFETY: sets a default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// signalfd(2), non-blocking and close-on-exec.
///
/// # Errors
/// Those of signalfd(2).
pub fn signal_fd(which: SignalSet) -> Result<OwnedFd> {
    let set = signal_set(which);
    // SAFETY: set is valid.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    check(libc::c_long::from(fd))?;
    // SAFETY: the kernel has just made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal of a [`signal_fd`], if there is one.
pub fn next_signal(fd: impl AsFd) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut info) {
        Ok(n) if n == info.len() => info.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)),
        _ => None,
    }
}

/// pidfd_send_signal(2) with a raw number.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let (call, info) = (libc::SYS_pidfd_send_signal, std::ptr::null::<libc::siginfo_t>());
    // SAFETY: no siginfo is given.
    check(unsafe { libc::syscall(call, pidfd.as_raw_fd(), signal, info, 0u32) }).map(drop)
}

/// kill(2) with a raw number.
///
/// # Errors
/// Those of kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: two integers.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}
