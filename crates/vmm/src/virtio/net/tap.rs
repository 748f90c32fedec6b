//! Taps: the host's end of a network device. All that needs the name of one, or rights, is done by the launcher.
//!
//! ```text
//!   launcher: /dev/net/tun ─► attach(name) ─► tap, non-blocking, 12-byte header ─► donated ─► device: set_offload
//!             opened once for each pair of queues; all but the first detached  ─► donated ─► device: set_queue
//! ```
#![expect(unsafe_code, reason = "ioctls on tap devices")]

use super::{HEADER, MAX_PAIRS};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A tap that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// while attaching to tap {0:?}: an interface name has 1 to 15 bytes and no NUL
    #[error("while attaching to tap {0:?}: an interface name has 1 to 15 bytes and no NUL")]
    Name(String),
    /// while attaching to tap {0:?}: {1}; make it with `ip tuntap add dev NAME mode tap vnet_hdr`, and let only one program use it
    #[error(
        "while attaching to tap {0:?}: {1}; make it with `ip tuntap add dev NAME mode tap vnet_hdr`, and let only one program use it"
    )]
    Attach(String, io::Error),
    /// while attaching to {1} queues of tap {0:?}: {2}; make it with `ip tuntap add dev NAME mode tap vnet_hdr multi_queue`
    #[error(
        "while attaching to {1} queues of tap {0:?}: {2}; make it with `ip tuntap add dev NAME mode tap vnet_hdr multi_queue`, and let only one program use it"
    )]
    AttachQueues(String, usize, io::Error),
    /// a network device has 1 to 8 pairs of queues, and a descriptor of its tap for each, not {0}
    #[error(
        "a network device has 1 to {MAX_PAIRS} pairs of queues, and a descriptor of its tap for each, not {0}"
    )]
    Pairs(usize),
    /// while detaching a queue of the tap: {0}; a tap with several descriptors is one with IFF_MULTI_QUEUE
    #[error(
        "while detaching a queue of the tap: {0}; a tap with several descriptors is one with IFF_MULTI_QUEUE"
    )]
    Detach(io::Error),
    /// while setting up the tap: {0}
    #[error("while setting up the tap: {0}")]
    Prepare(io::Error),
}

/// For the launcher: makes `tuns`, /dev/net/tun opened once for each pair of queues, the tap `name` and prepares it.
///
/// # Errors
/// When the name is none, or the tap does not exist and may not be made, is in use, or has one queue where several are wanted.
pub fn attach(tuns: Vec<File>, name: &str) -> Result<Vec<File>, TapError> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(TapError::Name(name.to_string()));
    }
    let several = if tuns.len() > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    for tun in &tuns {
        let mut request = request(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several);
        request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte as libc::c_char);
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`.
        if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
            let (name, error) = (name.to_string(), io::Error::last_os_error());
            return Err(match tuns.len() {
                1 => TapError::Attach(name, error),
                count => TapError::AttachQueues(name, count, error),
            });
        }
    }
    prepare(&tuns)?;
    Ok(tuns)
}

/// For the launcher: makes a tap or macvtap that somebody else attached fit for the device, which begins with one pair of queues: the others
/// get no frame until its driver asks for them.
///
/// # Errors
/// When it is none, or there are more descriptors than it has queues.
pub fn prepare(taps: &[File]) -> Result<(), TapError> {
    if !(1..=MAX_PAIRS).contains(&taps.len()) {
        return Err(TapError::Pairs(taps.len()));
    }
    let size = HEADER as libc::c_int;
    for tap in taps {
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) } < 0 {
            return Err(TapError::Prepare(io::Error::last_os_error()));
        }
        rustix::io::ioctl_fionbio(tap, true).map_err(|e| TapError::Prepare(e.into()))?;
    }
    taps[1..].iter().try_for_each(detach).map_err(TapError::Detach)
}

/// A queue that is detached already, as a client of the control socket may have left it, refuses to be so again: as one of a tap with no other
/// does, which cannot be attached again either.
fn detach(tap: &File) -> io::Result<()> {
    let set = |attached| set_queue(tap.as_fd(), attached);
    set(false).or_else(|_| set(true).and_then(|()| set(false)))
}

/// Attaches a queue to its tap, or detaches it: then it gets no frame, and those that it has are dropped.
///
/// # Errors
/// When it is so already, or the tap has but one queue.
pub fn set_queue(tap: BorrowedFd<'_>, attached: bool) -> io::Result<()> {
    let request = request(if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE });
    // SAFETY: TUNSETQUEUE reads one `struct ifreq`.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Without a name.
fn request(flags: libc::c_int) -> libc::ifreq {
    // SAFETY: plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

/// Says what packets the tap may hand out: `TUN_F_*` of Linux `include/uapi/linux/if_tun.h`.
///
/// # Errors
/// When the kernel does not know one of them.
pub fn set_offload(tap: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
