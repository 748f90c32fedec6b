//! Network interfaces as the host's network namespace has them and as the guest is to have them: plain numbers of rtnetlink(7).

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Address that the VMM gave to the device, by which the guest finds it; or [`address_of_slot`] of a device with an address of its own.
    pub device: [u8; 6],
    /// For example `eth0`; at most 15 bytes.
    pub name: String,
    /// Address on the wire.
    pub mac: [u8; 6],
    /// Largest packet without link header, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Routes of the main table that lead through it, but for those that the kernel makes of the addresses.
    pub routes: Vec<Route>,
    /// Neighbours that are known for ever.
    pub neighbours: Vec<Neighbour>,
}

/// What addresses that stand for places begin with: locally administered, and none that a VMM gives to a device.
const SLOT: [u8; 5] = [0x02, 0xc1, 0xea, 0x01, 0x00];

/// Stands for the device at place `slot` of the machine's first PCI bus, a function of the host: the VMM gives it no address, and what it
/// has may be random.
pub fn address_of_slot(slot: u8) -> [u8; 6] {
    let [a, b, c, d, e] = SLOT;
    [a, b, c, d, e, slot]
}

/// The place that an address stands for, if it stands for one.
pub fn slot_of(address: [u8; 6]) -> Option<u8> {
    let [rest @ .., slot] = address;
    (rest == SLOT).then_some(slot)
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The interface's own.
    pub address: IpAddr,
    /// Bits of the network (of the peer's, where there is one).
    pub prefix: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// For IPv4.
    pub broadcast: Option<IpAddr>,
    /// Label of an IPv4 address, for example `eth0:1`, where it is not the interface's name.
    pub label: Option<String>,
    /// RT_SCOPE_* of Linux `include/uapi/linux/rtnetlink.h`.
    pub scope: u8,
    /// IFA_F_* of Linux `include/uapi/linux/if_addr.h`, those that can be set.
    pub flags: u32,
}

/// A route through an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Network; the unspecified address for the default route.
    pub destination: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// Next hop; `None` for a network on the link. May be of the other family than `destination`.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Priority: the least wins.
    pub metric: Option<u32>,
    /// Type of service, for IPv4.
    pub tos: u8,
    /// RT_SCOPE_*
    pub scope: u8,
    /// RTPROT_*: who made it.
    pub protocol: u8,
    /// RTNH_F_ONLINK, or 0.
    pub flags: u32,
    /// RTAX_* and its value, for example the path's MTU.
    pub metrics: Vec<(u16, u32)>,
}

/// A neighbour of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its address on the link.
    pub mac: [u8; 6],
    /// NTF_*
    pub flags: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_for_a_place_or_for_none() {
        assert_eq!(slot_of(address_of_slot(0x1e)), Some(0x1e));
        assert_eq!(slot_of([0x02, 0xc1, 0xea, 0x00, 0x00, 0x10]), None);
    }
}
