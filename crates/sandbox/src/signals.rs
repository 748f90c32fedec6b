//! Signals as readable events, and processes of this program's own.
#![expect(unsafe_code, reason = "signalfd, sigprocmask and fork are not in rustix")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals that a process forwards to the one it stands for: all that have a handler by default and are sent by
/// people or engines, not by the kernel for this process's own doings.
pub const FORWARDED: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGURG,
    libc::SIGPWR,
];

/// Blocked signals, to be read one by one.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks [`FORWARDED`] and `more` in this thread, and ignores SIGPIPE, SIGTTIN and SIGTTOU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(more: &[i32]) -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is read; signal numbers are constants of libc.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in FORWARDED.iter().chain(more) {
                libc::sigaddset(&mut set, *signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            for signal in [libc::SIGPIPE, libc::SIGTTIN, libc::SIGTTOU] {
                libc::signal(signal, libc::SIG_IGN);
            }
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(SignalFd { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// The next signal's number, if one is pending.
    pub fn next(&self) -> Option<i32> {
        // SAFETY: read fills at most the size of the structure it is given, all of whose bit patterns are valid.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of_val(&info);
            let count = libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size);
            (count == size as isize).then_some(info.ssi_signo as i32)
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Forks this single-threaded process. `Some(pid)` in the parent, `None` in the child.
///
/// # Errors
/// When the kernel refuses, or the process has more than one thread.
pub fn fork() -> io::Result<Option<u32>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot be forked"));
    }
    // SAFETY: there is one thread, so the child may go on with all of the program's state.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid as u32)),
    }
}

/// Makes this process the parent of its orphaned descendants.
pub fn become_subreaper() {
    // SAFETY: prctl with plain numbers. A kernel that refuses leaves everything as it was.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Marks every descriptor from `first` on as close-on-exec, so that no program started later inherits what an engine left open.
pub fn close_on_exec_from(first: u32) {
    // SAFETY: close_range takes plain numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}
