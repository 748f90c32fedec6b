//! Interfaces that we make in the container's network namespace: taps, macvtaps, bridges. They have no address, and the host's own protocols say
//! nothing there.

use super::NetworkError;
use super::redirect::Cookie;
use netlink::{Message, Socket};
use rustix::io::Errno;

/// What their names start with. The kernel puts a number behind it for a tap; for others see [`name`].
pub const NAME: &str = "clear";

/// IFF_UP, IFF_NOARP
const UP: u32 = 0x1;
const NO_ARP: u32 = 0x80;
/// IFLA_INET6_ADDR_GEN_MODE of Linux `include/uapi/linux/if_link.h`
const ADDR_GEN_MODE: u16 = 8;
/// IN6_ADDR_GEN_MODE_NONE
const NONE: u8 = 1;

/// What an interface is that stays until somebody removes it, as the letter in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// `clearb...`
    Bridge,
    /// `clearv...`
    Macvtap,
}

/// Of the `number`th device of the container with this cookie: nobody else has an interface of that name, which is of 15 bytes, as many as there
/// may be.
pub fn name(what: Lasting, cookie: &Cookie, number: usize) -> String {
    let letter = if what == Lasting::Bridge { 'b' } else { 'v' };
    let [a, b, c, d, ..] = *cookie;
    format!("{NAME}{letter}{:08x}{number}", u32::from_be_bytes([a, b, c, d]))
}

/// Whether an interface of this name and kind is one of ours.
pub fn is_ours(name: &str, kind: Option<&str>) -> bool {
    let Some(rest) = name.strip_prefix(NAME) else { return false };
    let (rest, digits): (_, fn(&u8) -> bool) = match kind {
        Some("tun") => (Some(rest), u8::is_ascii_digit),
        Some("macvtap") => (rest.strip_prefix('v'), u8::is_ascii_hexdigit),
        Some("bridge") => (rest.strip_prefix('b'), u8::is_ascii_hexdigit),
        _ => return false,
    };
    rest.is_some_and(|rest| !rest.is_empty() && rest.as_bytes().iter().all(digits))
}

/// A request about interface `index` that gives it `flags` (IFF_*) and takes away none: `struct ifinfomsg`.
pub fn request(kind: u16, flags: u16, index: u32, up: u32) -> Message {
    let numbers = [0, index, up, up].map(u32::to_ne_bytes);
    Message::new(kind, flags, numbers.as_flattened())
}

/// Brings one up, without an address, and with this MTU.
///
/// # Errors
/// When the kernel refuses.
pub fn bring_up(socket: &mut Socket, name: &str, index: u32, mtu: Option<u32>) -> Result<(), NetworkError> {
    let silent = request(libc::RTM_NEWLINK, 0, index, 0).nested(libc::IFLA_AF_SPEC, |families| {
        families.nested(libc::AF_INET6 as u16, |inet6| inet6.attribute(ADDR_GEN_MODE, &[NONE]))
    });
    // Without IPv6 it gets no such address anyway.
    let _ = socket.request(silent);
    let up =
        request(libc::RTM_NEWLINK, 0, index, UP | NO_ARP).optional(libc::IFLA_MTU, mtu.map(u32::to_ne_bytes));
    socket.request(up).map_err(NetworkError::kernel(format!("bringing {name} up")))
}

/// Removes the one of this name; that there is none is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(socket: &mut Socket, name: &str) -> Result<(), NetworkError> {
    match socket.request(request(libc::RTM_DELLINK, 0, 0, 0).text(libc::IFLA_IFNAME, name)) {
        Err(Errno::NODEV) => Ok(()),
        result => result.map_err(NetworkError::kernel(format!("removing network interface {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_known_to_be_ours() {
        let cookie = [0xff; 16];
        for (what, kind) in [(Lasting::Bridge, "bridge"), (Lasting::Macvtap, "macvtap")] {
            let name = name(what, &cookie, super::super::MAX_DEVICES - 1);
            assert_eq!(name.len(), libc::IFNAMSIZ - 1, "{name}");
            assert!(
                is_ours(&name, Some(kind)) && !is_ours(&name, Some("veth")) && !is_ours(&name, None),
                "{name}"
            );
        }
        assert!(is_ours("clear0", Some("tun")) && !is_ours("clear0", Some("bridge")));
        for others in ["clear", "clearb", "br0", "clearbridge", "clearvpn"] {
            assert!(!is_ours(others, Some("bridge")) && !is_ours(others, Some("macvtap")), "{others}");
        }
    }
}
