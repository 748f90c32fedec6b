//! Taps: the host's end of a network device. All that needs the name of one, or rights, is done by the launcher.
//!
//! ```text
//!   launcher: /dev/net/tun ─► attach(name) ─► tap, non-blocking, 12-byte header ─► donated ─► device: set_offload
//! ```
#![expect(unsafe_code, reason = "ioctls on tap devices")]

use super::HEADER;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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
    /// while setting up the tap: {0}
    #[error("while setting up the tap: {0}")]
    Prepare(io::Error),
}

/// For the launcher: makes `tun`, an open /dev/net/tun, the tap `name` and prepares it.
///
/// # Errors
/// When the name is none, or the tap does not exist and may not be made, or is in use.
pub fn attach(tun: File, name: &str) -> Result<File, TapError> {
    let mut request: libc::ifreq = {
        // SAFETY: plain data, for which zeros are a value.
        unsafe { std::mem::zeroed() }
    };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(TapError::Name(name.to_string()));
    }
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte as libc::c_char);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(TapError::Attach(name.to_string(), io::Error::last_os_error()));
    }
    prepare(&tun)?;
    Ok(tun)
}

/// For the launcher: makes a tap or macvtap that somebody else attached fit for the device.
///
/// # Errors
/// When it is none.
pub fn prepare(tap: &File) -> Result<(), TapError> {
    let size = HEADER as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) } < 0 {
        return Err(TapError::Prepare(io::Error::last_os_error()));
    }
    rustix::io::ioctl_fionbio(tap, true).map_err(|e| TapError::Prepare(e.into()))
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
