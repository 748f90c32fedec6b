//! What is asked of the kernel, as rtnetlink messages. Structures: Linux `include/uapi/linux/{if_link,if_addr,rtnetlink,neighbour}.h`.

use guest_protocol::network::{Address, Interface, Neighbour, Route};
use netlink::{APPEND, CREATE, EXCLUSIVE, Message, REPLACE, Socket};
use std::net::IpAddr;

/// IFLA_INET6_ADDR_GEN_MODE
const ADDR_GEN_MODE: u16 = 8;
/// IN6_ADDR_GEN_MODE_EUI64 and _NONE
const EUI64: u8 = 0;
const NONE: u8 = 1;
/// IFA_F_NODAD: the host's kernel has found out that nobody else has the address.
const NODAD: u32 = 0x02;
/// RT_TABLE_MAIN
const MAIN: u8 = 254;
/// RTN_UNICAST
const UNICAST: u8 = 1;
/// RTA_VIA: a gateway of another family.
const VIA: u16 = 18;
/// NUD_PERMANENT
const PERMANENT: u16 = 0x80;

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `struct ifinfomsg`
fn link(index: u32, flags: u32, change: u32) -> Message {
    let numbers = [0, index, flags, change].map(u32::to_ne_bytes);
    Message::new(libc::RTM_NEWLINK, 0, numbers.as_flattened())
}

/// Sets the flags (IFF_*) of `change` to those of `flags`.
pub(super) fn change(index: u32, flags: u32, change: u32) -> Message {
    link(index, flags, change)
}

pub(super) fn rename(index: u32, name: &str) -> Message {
    link(index, 0, 0).text(libc::IFLA_IFNAME, name)
}

/// Name, address and MTU.
pub(super) fn identify(index: u32, interface: &Interface) -> Message {
    rename(index, &interface.name)
        .attribute(libc::IFLA_ADDRESS, &interface.mac)
        .attribute(libc::IFLA_MTU, &interface.mtu.to_ne_bytes())
}

/// Whether the kernel gives the link an address of its own.
pub(super) fn generate_link_local(index: u32, yes: bool) -> Message {
    let mode = if yes { EUI64 } else { NONE };
    link(index, 0, 0).nested(libc::IFLA_AF_SPEC, |families| {
        families.nested(libc::AF_INET6 as u16, |inet6| inet6.attribute(ADDR_GEN_MODE, &[mode]))
    })
}

/// Requests that remove each address of a link.
pub(super) fn old_addresses(socket: &mut Socket, index: u32) -> rustix::io::Result<Vec<Message>> {
    let all = socket.dump(&Message::new(libc::RTM_GETADDR, 0, &[0; 8]))?;
    let of_link = all.iter().filter(|(_, body)| body.get(4..8) == Some(index.to_ne_bytes().as_slice()));
    // An address is removed by what it was listed with.
    Ok(of_link.map(|(_, body)| Message::new(libc::RTM_DELADDR, 0, body)).collect())
}

/// `struct ifaddrmsg`; `kind` is RTM_NEWADDR or RTM_DELADDR.
pub(super) fn address(kind: u16, index: u32, address: &Address) -> Message {
    let [a, b, c, d] = index.to_ne_bytes();
    let head = [family(address.address), address.prefix, 0, address.scope, a, b, c, d];
    let flags = address.flags | if address.address.is_ipv6() { NODAD } else { 0 };
    let message = Message::new(kind, CREATE | EXCLUSIVE, &head)
        .attribute(libc::IFA_LOCAL, &octets(address.address))
        .attribute(libc::IFA_ADDRESS, &octets(address.peer.unwrap_or(address.address)))
        .optional(libc::IFA_BROADCAST, address.broadcast.map(octets))
        .attribute(libc::IFA_FLAGS, &flags.to_ne_bytes());
    match &address.label {
        Some(label) => message.text(libc::IFA_LABEL, label),
        None => message,
    }
}

/// `struct rtmsg`; `kind` is RTM_NEWROUTE or RTM_DELROUTE.
pub(super) fn route(kind: u16, index: u32, route: &Route) -> Message {
    let family_of = family(route.destination);
    let [a, b, c, d] = route.flags.to_ne_bytes();
    let head =
        [family_of, route.prefix, 0, route.tos, MAIN, route.protocol, route.scope, UNICAST, a, b, c, d];
    // Behind others to the same network: several ways may lead there.
    let mut message = Message::new(kind, CREATE | APPEND, &head);
    if route.prefix > 0 {
        message = message.attribute(libc::RTA_DST, &octets(route.destination));
    }
    message = match route.gateway {
        Some(gateway) if family(gateway) == family_of => {
            message.attribute(libc::RTA_GATEWAY, &octets(gateway))
        }
        Some(gateway) => {
            let via = [u16::from(family(gateway)).to_ne_bytes().as_slice(), &octets(gateway)].concat();
            message.attribute(VIA, &via)
        }
        None => message,
    };
    message = message
        .optional(libc::RTA_PREFSRC, route.source.map(octets))
        .optional(libc::RTA_PRIORITY, route.metric.map(u32::to_ne_bytes))
        .attribute(libc::RTA_OIF, &index.to_ne_bytes());
    if route.metrics.is_empty() {
        return message;
    }
    message.nested(libc::RTA_METRICS, |all| {
        route.metrics.iter().fold(all, |all, (kind, value)| all.attribute(*kind, &value.to_ne_bytes()))
    })
}

/// `struct ndmsg`; `kind` is RTM_NEWNEIGH or RTM_DELNEIGH.
pub(super) fn neighbour(kind: u16, index: u32, neighbour: &Neighbour) -> Message {
    let [a, b, c, d] = index.to_ne_bytes();
    let [low, high] = PERMANENT.to_ne_bytes();
    let head = [family(neighbour.address), 0, 0, 0, a, b, c, d, low, high, neighbour.flags, 0];
    Message::new(kind, CREATE | REPLACE, &head)
        .attribute(libc::NDA_DST, &octets(neighbour.address))
        .attribute(libc::NDA_LLADDR, &neighbour.mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::attributes;

    fn plain(address: &str) -> Address {
        let (peer, broadcast, label) = Default::default();
        Address { address: address.parse().unwrap(), prefix: 24, peer, broadcast, label, scope: 0, flags: 0 }
    }

    #[test]
    fn addresses_of_ipv6_are_not_looked_for_again() {
        let flags = |text: &str| {
            let message = address(libc::RTM_NEWADDR, 7, &plain(text));
            let all = attributes(&message.body()[8..]);
            assert_eq!(all.value(libc::IFA_LOCAL), all.value(libc::IFA_ADDRESS));
            (message.body()[..4].to_vec(), all.number(libc::IFA_FLAGS).unwrap())
        };
        assert_eq!(flags("10.1.0.2"), (vec![libc::AF_INET as u8, 24, 0, 0], 0));
        assert_eq!(flags("fd00::2"), (vec![libc::AF_INET6 as u8, 24, 0, 0], NODAD));
        let peer = Address { peer: "10.1.0.1".parse().ok(), label: Some("e:1".into()), ..plain("10.1.0.2") };
        let message = address(libc::RTM_NEWADDR, 7, &peer);
        let all = attributes(&message.body()[8..]);
        assert_eq!(all.value(libc::IFA_ADDRESS), Some([10, 1, 0, 1].as_slice()));
        assert_eq!(all.text(libc::IFA_LABEL).as_deref(), Some("e:1"));
    }

    #[test]
    fn a_gateway_of_the_other_family_says_which_one() {
        let default = Route {
            destination: "0.0.0.0".parse().unwrap(),
            prefix: 0,
            gateway: "fe80::1".parse().ok(),
            source: None,
            metric: Some(5),
            tos: 0,
            scope: 0,
            protocol: 3,
            flags: 4,
            metrics: vec![(2, 1300)],
        };
        let message = route(libc::RTM_NEWROUTE, 7, &default);
        let body = message.body();
        assert_eq!(body[..8], [libc::AF_INET as u8, 0, 0, 0, MAIN, 3, 0, UNICAST]);
        let all = attributes(&body[12..]);
        assert_eq!((all.value(libc::RTA_DST), all.value(libc::RTA_GATEWAY)), (None, None));
        assert_eq!(all.value(VIA).unwrap()[..4], [libc::AF_INET6 as u8, 0, 0xfe, 0x80]);
        assert_eq!((all.number(libc::RTA_PRIORITY), all.number(libc::RTA_OIF)), (Some(5), Some(7)));
        assert_eq!(attributes(all.value(libc::RTA_METRICS).unwrap()).number(2), Some(1300));
        let same = Route { gateway: "10.0.0.1".parse().ok(), metrics: vec![], ..default };
        let message = route(libc::RTM_NEWROUTE, 7, &same);
        assert_eq!(
            attributes(&message.body()[12..]).value(libc::RTA_GATEWAY),
            Some([10, 0, 0, 1].as_slice())
        );
    }
}
