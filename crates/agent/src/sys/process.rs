//! Making, changing and becoming processes.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use super::{Result, check};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::CString;

/// From `include/uapi/linux/sched.h`; does not fit the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone_process`] returns on its two sides.
pub enum Cloned {
    /// In the new process.
    Child,
    /// In the caller.
    Parent {
        /// The child, as the caller's pid namespace numbers it.
        pid: Pid,
        /// The child, for ever.
        pidfd: OwnedFd,
    },
}

/// clone3(2) with `CLONE_PIDFD`, like fork(2) in everything that `flags` does not say.
///
/// The agent has one thread, so the child may go on using everything, allocation included.
///
/// # Errors
/// Those of clone3(2).
pub fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no stack and no CLONE_VM: the child runs on a copy of this memory, and this process has one thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel has just made this file descriptor for us.
        Some(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// _exit(2): ends this process without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

/// Arguments and environment for execve(2), ready before a fork so that nothing is allocated after it.
pub struct Image {
    path: CString,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// What the pointers above point into.
    _strings: Vec<CString>,
}

impl Image {
    /// Takes the strings over.
    ///
    /// # Errors
    /// EINVAL when one holds a null byte.
    pub fn new(path: &str, args: &[String], env: &[String]) -> Result<Image> {
        let own = |s: &str| CString::new(s).map_err(|_| Errno::INVAL);
        let strings: Vec<CString> = args.iter().chain(env).map(|s| own(s)).collect::<Result<_>>()?;
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (head, tail) = strings.split_at(args.len());
        Ok(Image { path: own(path)?, args: pointers(head), env: pointers(tail), _strings: strings })
    }

    /// execve(2); returns only its error.
    pub fn execute(&self) -> Errno {
        // SAFETY: both arrays end with a null pointer, and the strings they point to live as long as `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.args.as_ptr(), self.env.as_ptr()) };
        Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
    }
}

/// Closes every file descriptor except those in `keep`.
pub fn close_all_except(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from: u32 = 0;
    for fd in keep.iter().map(|fd| *fd as u32).chain([u32::MAX]) {
        if fd > from {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: the caller never uses (nor drops) the descriptors it did not keep.
            unsafe { libc::syscall(libc::SYS_close_range, from, last, 0u32) };
        }
        from = fd.saturating_add(1);
    }
}

/// dup2(2) onto one of the standard files (0, 1, 2), which then stays open over execve(2).
///
/// # Errors
/// Those of dup2(2).
pub fn put_at(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: only the standard files are replaced, which no OwnedFd of this program owns.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) })).map(drop)
}

/// Which namespace of a process: the number of its ioctl of `include/uapi/linux/pidfd.h` (PIDFD_GET_*_NAMESPACE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Of System V objects and message queues.
    Ipc = 2,
    /// Of mounts.
    Mount = 3,
}

/// A namespace of the process behind a pidfd, by ioctl (Linux 6.11).
///
/// # Errors
/// ENOTTY from an older kernel; ESRCH when the process has ended.
pub fn namespace(pidfd: BorrowedFd<'_>, which: Namespace) -> Result<OwnedFd> {
    /// `_IO(PIDFS_IOCTL_MAGIC, 0)`.
    const MAGIC: libc::c_ulong = 0xff00;
    let call = MAGIC | which as libc::c_ulong;
    // SAFETY: the ioctl has no argument.
    let fd = check(libc::c_long::from(unsafe { libc::ioctl(pidfd.as_raw_fd(), call as _, 0) }))?;
    // SAFETY: the kernel has just made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// setns(2) on a pidfd or a namespace file, with CLONE_NEW* flags.
///
/// # Errors
/// Those of setns(2).
pub fn set_namespaces(fd: BorrowedFd<'_>, flags: i32) -> Result<()> {
    // SAFETY: one thread; what it sees of the system changes, its memory does not.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), flags) })).map(drop)
}

/// unshare(2) with CLONE_NEW* flags.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: only namespaces are given, so that no file descriptor or memory sharing changes.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    #[test]
    fn a_namespace_is_that_of_the_process() {
        let own =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        let own = own.unwrap();
        for (which, file) in [(Namespace::Ipc, "ipc"), (Namespace::Mount, "mnt")] {
            match namespace(own.as_fd(), which) {
                Ok(found) => {
                    let expected = rustix::fs::stat(format!("/proc/self/ns/{file}")).unwrap();
                    assert_eq!(rustix::fs::fstat(found).unwrap().st_ino, expected.st_ino);
                }
                // Before Linux 6.11, where a pidfd may also be an anonymous file without ioctls.
                Err(e) => assert!(matches!(e, Errno::NOTTY | Errno::INVAL), "{e:?}"),
            }
        }
    }
}
