//! The signals that end a machine, as a file.
#![expect(unsafe_code, reason = "signal masks and signalfd have no safe wrapper here")]

use super::{LoopError, doing};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Signals that end the machine.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Blocks them in this thread and all that it starts later, and returns a file that becomes readable when one comes.
///
/// # Errors
/// When the host has no file descriptors left.
pub fn block() -> Result<OwnedFd, LoopError> {
    // SAFETY: the set is initialized by sigemptyset before its first use; the calls take pointers to it that are valid for
    // their time.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in ENDING {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
    };
    if fd < 0 {
        return Err(doing("creating a signalfd")(io::Error::last_os_error()));
    }
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The signal that has come, if any.
pub(super) fn take(signals: &OwnedFd) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    // SAFETY: the buffer has the length that is told.
    let length = unsafe { libc::read(signals.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) };
    // ssi_signo is the first member.
    (length == info.len() as isize).then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
}
