//! Network model `bridge`: an interface and a tap are the two ports of a bridge. Structures: Linux `include/uapi/linux/{if_link,neighbour}.h`.
//!
//! ```text
//!   eth0 ◄── port ── clearb... ── port ──► tap ──► VMM
//!            no learning: what is for none of the bridge's own addresses goes to the other port
//!            eth0's MAC ─► tap, by an entry of the forwarding table
//!       ◄── redirected both ways ──► what bridges forward to nobody: LLDP, LACP, 802.1X, spanning trees
//! ```
//!
//! The guest has the MAC of the interface. A bridge takes frames for the MAC of a port to be for the host, so the entry that says so is
//! replaced by one that leads to the tap: neither MAC nor addresses of the interface are changed, and removing the bridge takes all back.

use super::link::{self, request};
use super::redirect::{self, Cookie};
use super::scan::index_of;
use super::{NetworkError, tap::Tap};
use netlink::{CREATE, EXCLUSIVE, Message, REPLACE, Socket};

/// IFLA_BR_MCAST_SNOOPING
const SNOOPING: u16 = 23;
/// IFLA_BRPORT_LEARNING
const LEARNING: u16 = 8;
/// IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA
const PORT_KIND: u16 = 4;
const PORT_DATA: u16 = 5;
/// NUD_NOARP: an entry that stays, for another than the host.
const STATIC: u16 = 0x40;
/// NTF_MASTER: the entry is in the bridge's table, not in the port's.
const OF_THE_BRIDGE: u8 = 0x04;

/// The bridge of one interface.
#[derive(Debug, PartialEq, Eq)]
pub struct Bridge {
    name: String,
    mac: [u8; 6],
    mtu: u32,
}

/// A bridge that floods groups, whoever is in them, and has an address of its own: without one it would take a port's.
fn new_bridge(name: &str, cookie: &Cookie) -> Message {
    let [.., a, b, c, d, e] = *cookie;
    request(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, 0, 0)
        .text(libc::IFLA_IFNAME, name)
        // Locally administered, of one station.
        .attribute(libc::IFLA_ADDRESS, &[2, a, b, c, d, e])
        .nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "bridge")
                .nested(libc::IFLA_INFO_DATA, |data| data.attribute(SNOOPING, &[0]))
        })
}

/// Interface `index` is a port of `bridge`.
fn joins(index: u32, bridge: u32) -> Message {
    request(libc::RTM_NEWLINK, 0, index, 0).attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes())
}

/// No address is learnt at port `index`.
fn learns_nothing(index: u32) -> Message {
    request(libc::RTM_NEWLINK, 0, index, 0).nested(libc::IFLA_LINKINFO, |info| {
        info.text(PORT_KIND, "bridge").nested(PORT_DATA, |data| data.attribute(LEARNING, &[0]))
    })
}

/// Frames for `mac` go to port `index`: `struct ndmsg`.
fn leads_to(index: u32, mac: [u8; 6]) -> Message {
    let mut head = [0; 12];
    head[0] = libc::AF_BRIDGE as u8;
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..10].copy_from_slice(&STATIC.to_ne_bytes());
    head[10] = OF_THE_BRIDGE;
    Message::new(libc::RTM_NEWNEIGH, CREATE | REPLACE, &head).attribute(libc::NDA_LLADDR, &mac)
}

impl Bridge {
    /// Joins interface `index`, which is called `of` and has this MAC and MTU, with a tap that is up. The bridge is called `name`.
    ///
    /// # Errors
    /// When somebody else takes its packets, or the kernel has no bridges.
    pub fn join(
        socket: &mut Socket,
        (name, cookie): (String, &Cookie),
        tap: &Tap,
        (index, of): (u32, &str),
        (mac, mtu): ([u8; 6], u32),
    ) -> Result<Self, NetworkError> {
        redirect::redirect_reserved(socket, of, index, tap.index, cookie)?;
        redirect::redirect_reserved(socket, &tap.name, tap.index, index, cookie)?;
        let failed = |doing: &str| NetworkError::kernel(format!("{doing} {name} (CONFIG_BRIDGE)"));
        socket.request(new_bridge(&name, cookie)).map_err(failed("making bridge"))?;
        let bridge = index_of(socket, &name)?;
        link::bring_up(socket, &name, bridge, None)?;
        for (port, called) in [(tap.index, tap.name.as_str()), (index, of)] {
            let failed = || failed(&format!("making {called} a port of bridge"));
            socket.request(joins(port, bridge)).map_err(failed())?;
            socket.request(learns_nothing(port)).map_err(failed())?;
        }
        let bridge = Bridge { name, mac, mtu };
        bridge.point(socket, tap, mac)?;
        Ok(bridge)
    }

    /// The interface has this MAC and MTU now: so has the guest.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn follow(
        &mut self,
        socket: &mut Socket,
        tap: &Tap,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), NetworkError> {
        if mtu != self.mtu {
            tap.bring_up(socket, mtu)?;
            self.mtu = mtu;
        }
        if mac != self.mac {
            self.point(socket, tap, mac)?;
            self.mac = mac;
        }
        Ok(())
    }

    /// Removes it, whereupon its ports are what they were; that there is none is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(self, socket: &mut Socket) -> Result<(), NetworkError> {
        link::remove(socket, &self.name)
    }

    fn point(&self, socket: &mut Socket, tap: &Tap, mac: [u8; 6]) -> Result<(), NetworkError> {
        let failed = NetworkError::kernel(format!("leading frames of bridge {} to the machine", self.name));
        socket.request(leads_to(tap.index, mac)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::attributes;

    /// Bytes of `struct ifinfomsg`.
    const LINK: usize = 16;

    #[test]
    fn a_bridge_has_an_address_of_its_own_and_floods_groups() {
        let message = new_bridge("clearb0", &[0xff; 16]);
        let all = attributes(&message.body()[LINK..]);
        assert_eq!(all.text(libc::IFLA_IFNAME).as_deref(), Some("clearb0"));
        assert_eq!(all.value(libc::IFLA_ADDRESS), Some([2, 255, 255, 255, 255, 255].as_slice()));
        let info = attributes(all.value(libc::IFLA_LINKINFO).unwrap());
        assert_eq!(info.text(libc::IFLA_INFO_KIND).as_deref(), Some("bridge"));
        let data = attributes(info.value(libc::IFLA_INFO_DATA).unwrap());
        assert_eq!(data.value(SNOOPING), Some([0].as_slice()));
    }

    #[test]
    fn ports_are_named_by_number_and_learn_nothing() {
        let message = joins(7, 9);
        assert_eq!(message.body()[4..8], 7_u32.to_ne_bytes());
        assert_eq!(attributes(&message.body()[LINK..]).number(libc::IFLA_MASTER), Some(9));
        let message = learns_nothing(7);
        let info = attributes(&message.body()[LINK..]).value(libc::IFLA_LINKINFO).unwrap();
        assert_eq!(attributes(info).text(PORT_KIND).as_deref(), Some("bridge"));
        let data = attributes(attributes(info).value(PORT_DATA).unwrap());
        assert_eq!(data.value(LEARNING), Some([0].as_slice()));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn an_entry_of_the_table_is_what_bridge_asks_for() {
        let message = leads_to(7, [2, 0, 0, 0, 0, 9]);
        // bridge fdb replace 02:00:00:00:00:09 dev TAP master static
        assert_eq!(message.body()[..12], [7, 0, 0, 0, 7, 0, 0, 0, 0x40, 0, 4, 0]);
        assert_eq!(message.body()[12..22], [10, 0, 2, 0, 2, 0, 0, 0, 0, 9]);
    }
}
