//! The system calls that no safe interface has.
#![expect(unsafe_code, reason = "pre_exec, an ioctl on a socket, kill(-1), rdtsc")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the kernel kill a child when the thread that starts it ends, however that ends; the descriptors in `donated` stay
/// open in it under their numbers.
pub fn tie(command: &mut Command, donated: Vec<RawFd>) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            // We died before the line above took effect.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        for fd in &donated {
            // SAFETY: fcntl with F_SETFD takes plain numbers.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// Turns the loopback interface of this network namespace on, which gives it its addresses.
///
/// # Errors
/// As socket(2) and netdevice(7) say.
pub fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain data for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a live ifreq with a terminated name.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The processor's time stamp counter; `None` where there is none.
pub fn time_stamp() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every 64-bit processor has the instruction, and Linux lets programs use it.
    return Some(unsafe { std::arch::x86_64::_rdtsc() });
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Kills every process but this one. Only for PID 1 of a machine of its own.
pub fn kill_all_others() {
    if rustix::process::getpid().is_init() {
        // SAFETY: kill takes plain numbers. There being no other process is fine too.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}
