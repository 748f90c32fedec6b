//! Taps: made by the keeper in the container's network namespace, donated to the VMM.
#![expect(unsafe_code, reason = "ioctl of the tap driver")]

use super::NetworkError;
use super::link::{self, NAME};
use netlink::Socket;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Largest frame that a guest may give: the tap's own limit is that of the interface behind it.
const MAX_MTU: u32 = 65_521;

/// A tap of the calling thread's network namespace, which exists as long as a descriptor of it is open; or a macvtap, which stays.
#[derive(Debug)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
}

/// Makes a tap with a virtio header (IFF_VNET_HDR), down; returns it with a descriptor for each of its queues, of which there are several
/// if more than one is asked for (IFF_MULTI_QUEUE).
///
/// # Errors
/// When there is no tap driver, or it refuses.
pub fn make(socket: &mut Socket, queues: u32) -> Result<(Tap, Vec<File>), NetworkError> {
    let several = several(queues);
    let (name, first) = attach(&format!("{NAME}%d"), several)?;
    let mut files = vec![first];
    for _ in 1..queues {
        files.push(attach(&name, several)?.1);
    }
    let index = super::scan::index_of(socket, &name)?;
    Ok((Tap { name, index }, files))
}

/// What says that there are several queues.
pub fn several(queues: u32) -> libc::c_int {
    if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 }
}

/// Makes a tap, or attaches to one more queue of it; the kernel puts a number in the place of `%d` in its name.
fn attach(name: &str, flags: libc::c_int) -> Result<(String, File), NetworkError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(NetworkError::kernel("opening /dev/net/tun (load the module tun if it is missing)"))?;
    let name = set_up(&file, name, flags).map_err(NetworkError::kernel("making a tap"))?;
    Ok((name, file))
}

/// Has a descriptor of the tap driver, or of a macvtap, give and take frames behind a virtio header. Returns the interface's name.
///
/// # Errors
/// When the kernel refuses.
pub fn set_up(file: &File, name: &str, flags: libc::c_int) -> io::Result<String> {
    // SAFETY: plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name: Vec<u8> =
        request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Removes a tap of ours; that there is none is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(socket: &mut Socket, index: u32) -> Result<(), NetworkError> {
    let failed = NetworkError::kernel("removing a tap");
    // The number may be another's by now.
    if !super::scan::taps(socket)?.contains(&index) {
        return Ok(());
    }
    match socket.request(link::request(libc::RTM_DELLINK, 0, index, 0)) {
        Err(rustix::io::Errno::NODEV) => Ok(()),
        result => result.map_err(failed),
    }
}

impl Tap {
    /// Brings it up with this MTU, without an address: nothing but the guest speaks there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bring_up(&self, socket: &mut Socket, mtu: u32) -> Result<(), NetworkError> {
        self.bring_up_with(socket, mtu.min(MAX_MTU))
    }

    /// As [`Tap::bring_up`], for a macvtap: it takes frames as large as its interface does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bring_up_with(&self, socket: &mut Socket, mtu: u32) -> Result<(), NetworkError> {
        link::bring_up(socket, &self.name, self.index, Some(mtu))
    }
}
