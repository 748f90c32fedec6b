//! Taps: made by the keeper in the container's network namespace, donated to the VMM.
#![expect(unsafe_code, reason = "ioctl of the tap driver")]

use super::NetworkError;
use netlink::{Message, Socket};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// What the names of our taps start with; the kernel puts a number behind it.
pub const NAME: &str = "clear";

/// IFF_UP
const UP: u32 = 1;
/// IFLA_INET6_ADDR_GEN_MODE of Linux `include/uapi/linux/if_link.h`
const ADDR_GEN_MODE: u16 = 8;
/// IN6_ADDR_GEN_MODE_NONE
const NONE: u8 = 1;
/// Largest frame that a guest may give: the tap's own limit is that of the interface behind it.
const MAX_MTU: u32 = 65_521;

/// A tap of the calling thread's network namespace. It exists as long as a descriptor of it is open.
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
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let (name, first) = attach(&format!("{NAME}%d"), several)?;
    let mut files = vec![first];
    for _ in 1..queues {
        files.push(attach(&name, several)?.1);
    }
    let index = super::scan::index_of(socket, &name)?;
    Ok((Tap { name, index }, files))
}

/// Makes a tap, or attaches to one more queue of it; the kernel puts a number in the place of `%d` in its name.
fn attach(name: &str, flags: libc::c_int) -> Result<(String, File), NetworkError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(NetworkError::kernel("opening /dev/net/tun (load the module tun if it is missing)"))?;
    // SAFETY: plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(NetworkError::kernel("making a tap")(io::Error::last_os_error()));
    }
    let name: Vec<u8> =
        request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    Ok((String::from_utf8_lossy(&name).into_owned(), file))
}

/// Removes a tap of ours; that there is none is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(socket: &mut Socket, index: u32) -> Result<(), NetworkError> {
    let failed = NetworkError::kernel("removing a tap");
    let numbers = [0, index, 0, 0].map(u32::to_ne_bytes);
    // The number may be another's by now.
    if !super::scan::taps(socket)?.contains(&index) {
        return Ok(());
    }
    match socket.request(Message::new(libc::RTM_DELLINK, 0, numbers.as_flattened())) {
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
        let silent = self.link(0).nested(libc::IFLA_AF_SPEC, |families| {
            families.nested(libc::AF_INET6 as u16, |inet6| inet6.attribute(ADDR_GEN_MODE, &[NONE]))
        });
        // Without IPv6 it gets no such address anyway.
        let _ = socket.request(silent);
        let up = self.link(UP).attribute(libc::IFLA_MTU, &mtu.min(MAX_MTU).to_ne_bytes());
        socket.request(up).map_err(NetworkError::kernel(format!("bringing tap {} up", self.name)))
    }

    /// `struct ifinfomsg` that changes IFF_UP if it is in `flags`.
    fn link(&self, flags: u32) -> Message {
        let numbers = [0, self.index, flags, flags].map(u32::to_ne_bytes);
        Message::new(libc::RTM_NEWLINK, 0, numbers.as_flattened())
    }
}
