//! Reads what is in a network namespace. Structures: Linux `include/uapi/linux/{if_link,if_addr,rtnetlink,neighbour}.h`.

use super::{NetworkError, link as links};
use guest_protocol::network::{Address, Interface, Neighbour, Route};
use netlink::{Attributes, Message, Objects, Socket, attributes};
use std::net::IpAddr;

/// ARPHRD_ETHER
const ETHERNET: u16 = 1;
/// RT_TABLE_MAIN
const MAIN: u32 = 254;
/// RTN_UNICAST
const UNICAST: u8 = 1;
/// RTPROT_KERNEL: made of an address.
const BY_KERNEL: u8 = 2;
/// RTPROT_RA: learnt from a router.
const BY_ROUTER: u8 = 9;
/// RTNH_F_ONLINK
const ON_LINK: u32 = 4;
/// RTA_VIA, RTA_MULTIPATH
const VIA: u16 = 18;
const MULTIPATH: u16 = 9;
/// RTAX_CC_ALGO: a text, not a number.
const CONGESTION: u16 = 16;
/// IFA_F_TEMPORARY (IPv6), IFA_F_DADFAILED, IFA_F_PERMANENT
const TEMPORARY: u32 = 0x01;
const DUPLICATE: u32 = 0x08;
const PERMANENT: u32 = 0x80;
/// IFA_F_NOPREFIXROUTE: the kernel makes no route of the address.
const NO_PREFIX_ROUTE: u32 = 0x200;
/// IFA_F_HOMEADDRESS, IFA_F_NOPREFIXROUTE, IFA_F_MCAUTOJOIN: what can be set and means the same in the guest.
const SETTABLE: u32 = 0x10 | NO_PREFIX_ROUTE | 0x400;
/// IFLA_PARENT_DEV_NAME, IFLA_PARENT_DEV_BUS_NAME
const PARENT: u16 = 56;
const PARENT_BUS: u16 = 57;
/// NUD_PERMANENT
const KNOWN_FOR_EVER: u16 = 0x80;

/// An interface of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub index: u32,
    /// What the guest gets; [`Interface::device`] is still to be chosen.
    pub interface: Interface,
    /// Address of the PCI function behind it, if there is one. Kernels before 5.14 do not say.
    pub function: Option<String>,
}

/// A route as the kernel has it.
#[derive(Debug)]
struct KernelRoute {
    through: u32,
    route: Route,
}

/// The Ethernet interfaces of the socket's namespace but for those that we made, in the order of their numbers.
///
/// # Errors
/// When the kernel refuses.
pub fn scan(socket: &mut Socket) -> Result<Vec<Found>, NetworkError> {
    let mut dump = |kind, header: &[u8], what: &str| {
        let all = socket.dump(&Message::new(kind, 0, header));
        all.map_err(NetworkError::kernel(format!("listing {what} of the network namespace")))
    };
    let links = dump(libc::RTM_GETLINK, &[0; 16], "interfaces")?;
    let bridges = our_bridges(&links);
    let mut found: Vec<Found> = links.iter().filter_map(|(_, body)| link(body, &bridges)).collect();
    found.sort_by_key(|one| one.index);
    if found.is_empty() {
        return Ok(found);
    }
    let addresses = dump(libc::RTM_GETADDR, &[0; 8], "addresses")?;
    let routes = dump(libc::RTM_GETROUTE, &[0; 12], "routes")?;
    let neighbours = dump(libc::RTM_GETNEIGH, &[0; 12], "neighbours")?;
    let routes: Vec<_> = routes.iter().flat_map(|(_, body)| route(body)).collect();
    for Found { index, interface, .. } in &mut found {
        let of_it = addresses.iter().filter_map(|(_, body)| address(body, &interface.name));
        interface.addresses = of_it.filter(|(of, _)| of == index).map(|(_, address)| address).collect();
        let of_it: Vec<_> = routes.iter().filter(|r| r.through == *index).map(|r| &r.route).collect();
        keep_kernel_from_routes(&mut interface.addresses, &of_it);
        let made = |route: &&&Route| ![BY_KERNEL, BY_ROUTER].contains(&route.protocol);
        interface.routes = of_it.iter().filter(made).map(|route| (*route).clone()).collect();
        let of_it = neighbours.iter().filter_map(|(_, body)| neighbour(body));
        interface.neighbours = of_it.filter(|(of, _)| of == index).map(|(_, neighbour)| neighbour).collect();
    }
    Ok(found)
}

/// The numbers of the namespace's taps that have a name as ours.
///
/// # Errors
/// When the kernel refuses.
pub fn taps(socket: &mut Socket) -> Result<Vec<u32>, NetworkError> {
    let links = socket
        .dump(&Message::new(libc::RTM_GETLINK, 0, &[0; 16]))
        .map_err(NetworkError::kernel("listing interfaces of the network namespace"))?;
    let tap = |body: &Vec<u8>| {
        let all = attributes(body.get(16..)?);
        (is_ours(&all) && kind_of(&all)? == "tun").then(|| number(body, 4)).flatten()
    };
    Ok(links.iter().filter_map(|(_, body)| tap(body)).collect())
}

/// The numbers of bridges that have interface `index` and of macvtaps on it, of those that have a name as ours.
///
/// # Errors
/// When the kernel refuses.
pub fn lasting_on(socket: &mut Socket, index: u32) -> Result<Vec<u32>, NetworkError> {
    let links = socket
        .dump(&Message::new(libc::RTM_GETLINK, 0, &[0; 16]))
        .map_err(NetworkError::kernel("listing interfaces of the network namespace"))?;
    let bridges = our_bridges(&links);
    let of = |body: &[u8]| {
        let (all, own) = (attributes(body.get(16..)?), number(body, 4)?);
        if own == index {
            return all.number(libc::IFLA_MASTER).filter(|master| bridges.contains(master));
        }
        let macvtap = is_ours(&all) && kind_of(&all)? == "macvtap";
        (macvtap && all.number(libc::IFLA_LINK) == Some(index)).then_some(own)
    };
    Ok(links.iter().filter_map(|(_, body)| of(body)).collect())
}

fn our_bridges(links: &Objects) -> Vec<u32> {
    let bridge = |body: &[u8]| {
        let all = attributes(body.get(16..)?);
        (is_ours(&all) && kind_of(&all)? == "bridge").then(|| number(body, 4)).flatten()
    };
    links.iter().filter_map(|(_, body)| bridge(body)).collect()
}

/// The number of the interface of this name.
///
/// # Errors
/// When there is none.
pub fn index_of(socket: &mut Socket, name: &str) -> Result<u32, NetworkError> {
    let failed = || format!("looking for network interface {name}");
    let links =
        socket.dump(&Message::new(libc::RTM_GETLINK, 0, &[0; 16])).map_err(NetworkError::kernel(failed()))?;
    let of_name = |body: &Vec<u8>| {
        let all = attributes(body.get(16..)?);
        (all.text(libc::IFLA_IFNAME)? == name).then(|| number(body, 4)).flatten()
    };
    let found = links.iter().find_map(|(_, body)| of_name(body));
    found.ok_or_else(|| NetworkError::kernel(failed())(rustix::io::Errno::NODEV))
}

/// The number of the interface of a PCI function, if the socket's namespace has it.
///
/// # Errors
/// When the kernel refuses.
pub fn index_of_function(socket: &mut Socket, address: &str) -> Result<Option<u32>, NetworkError> {
    let links = socket
        .dump(&Message::new(libc::RTM_GETLINK, 0, &[0; 16]))
        .map_err(NetworkError::kernel(format!("looking for the interface of PCI function {address}")))?;
    let of_it = |body: &Vec<u8>| {
        let found = function(&attributes(body.get(16..)?))?;
        (found == address).then(|| number(body, 4)).flatten()
    };
    Ok(links.iter().find_map(|(_, body)| of_it(body)))
}

/// Some engines take the kernel's route to an address's network away again: then the guest's kernel is not to make it.
fn keep_kernel_from_routes(addresses: &mut [Address], routes: &[&Route]) {
    for address in addresses {
        let network = masked(address.peer.unwrap_or(address.address), address.prefix);
        let has = |route: &&&Route| {
            route.protocol == BY_KERNEL && route.prefix == address.prefix && route.destination == network
        };
        let host = if address.address.is_ipv4() { 32 } else { 128 };
        // The kernel makes none of a single IPv4 address.
        let none = address.prefix == host && address.peer.is_none() && address.address.is_ipv4();
        if !none && !routes.iter().any(|route| has(&route)) {
            address.flags |= NO_PREFIX_ROUTE;
        }
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// The number at `offset` of a header.
fn number(body: &[u8], offset: usize) -> Option<u32> {
    body.get(offset..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

/// `struct ifinfomsg`. A port of one of our `bridges` is an interface, one of another bridge is not: that bridge is.
fn link(body: &[u8], bridges: &[u32]) -> Option<Found> {
    let kind = u16::from_ne_bytes(*body.get(2..)?.first_chunk()?);
    let (index, flags) = (number(body, 4)?, number(body, 8)?);
    let all = attributes(body.get(16..)?);
    let mac: [u8; 6] = all.value(libc::IFLA_ADDRESS)?.try_into().ok()?;
    let name = all.text(libc::IFLA_IFNAME)?;
    let loopback = flags & libc::IFF_LOOPBACK as u32 != 0;
    let of_a_bridge = all.number(libc::IFLA_MASTER).is_some_and(|master| !bridges.contains(&master));
    if kind != ETHERNET || loopback || of_a_bridge || mac == [0; 6] || is_ours(&all) {
        return None;
    }
    let mtu = all.number(libc::IFLA_MTU)?;
    let up = flags & libc::IFF_UP as u32 != 0;
    let (device, addresses, routes, neighbours) = Default::default();
    let interface = Interface { device, name, mac, mtu, up, addresses, routes, neighbours };
    Some(Found { index, interface, function: function(&all) })
}

/// The PCI function that is a link's device.
fn function(all: &Attributes<'_>) -> Option<String> {
    let is_pci = all.text(PARENT_BUS).as_deref() == Some("pci");
    all.text(PARENT).filter(|address| is_pci && machine_spec::is_pci_address(address))
}

/// What kind of interface it is, if it is not a piece of hardware.
fn kind_of(all: &Attributes<'_>) -> Option<String> {
    attributes(all.value(libc::IFLA_LINKINFO)?).text(libc::IFLA_INFO_KIND)
}

fn is_ours(all: &Attributes<'_>) -> bool {
    all.text(libc::IFLA_IFNAME).is_some_and(|name| links::is_ours(&name, kind_of(all).as_deref()))
}

/// `struct ifaddrmsg`: the interface's number and the address. Those that the guest gets from a router itself are left out.
fn address(body: &[u8], interface: &str) -> Option<(u32, Address)> {
    let head: &[u8; 8] = body.first_chunk()?;
    let all = attributes(&body[8..]);
    let flags = all.number(libc::IFA_FLAGS).unwrap_or(u32::from(head[2]));
    let first = all.value(libc::IFA_ADDRESS).and_then(ip);
    let address = all.value(libc::IFA_LOCAL).and_then(ip).or(first)?;
    if address.is_ipv6() && (flags & PERMANENT == 0 || flags & (TEMPORARY | DUPLICATE) != 0) {
        return None;
    }
    let found = Address {
        address,
        prefix: head[1],
        peer: first.filter(|first| *first != address),
        broadcast: all.value(libc::IFA_BROADCAST).and_then(ip),
        label: all.text(libc::IFA_LABEL).filter(|label| label != interface),
        scope: head[3],
        flags: flags & SETTABLE,
    };
    Some((number(body, 4)?, found))
}

/// `struct rtmsg`. A route with several next hops becomes one route for each.
fn route(body: &[u8]) -> Vec<KernelRoute> {
    let Some((hops, route)) = plain_route(body) else { return Vec::new() };
    let through = |hop: Hop| {
        let route = Route { gateway: hop.gateway, flags: hop.flags & ON_LINK, ..route.clone() };
        KernelRoute { through: hop.through, route }
    };
    hops.into_iter().map(through).collect()
}

/// A next hop.
struct Hop {
    through: u32,
    gateway: Option<IpAddr>,
    flags: u32,
}

impl Hop {
    fn new(through: u32, flags: u32, all: &Attributes<'_>) -> Self {
        // A gateway of another family comes with its family in front.
        let via = all.value(VIA).and_then(|value| ip(value.get(2..)?));
        Hop { through, gateway: all.value(libc::RTA_GATEWAY).and_then(ip).or(via), flags }
    }

    /// `struct rtnexthop`, one after another, each with attributes of its own.
    fn list(mut bytes: &[u8]) -> Vec<Self> {
        let mut hops = Vec::new();
        while let Some(head) = bytes.first_chunk::<8>() {
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let (Some(through), Some(own)) = (number(bytes, 4), bytes.get(8..length)) else { break };
            hops.push(Hop::new(through, u32::from(head[2]), &attributes(own)));
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        hops
    }
}

/// The next hops, and a route without one.
fn plain_route(body: &[u8]) -> Option<(Vec<Hop>, Route)> {
    let head: &[u8; 12] = body.first_chunk()?;
    let all = attributes(&body[12..]);
    let table = all.number(libc::RTA_TABLE).unwrap_or(u32::from(head[4]));
    if table != MAIN || head[7] != UNICAST {
        return None;
    }
    let nowhere = match i32::from(head[0]) {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let hops = match all.number(libc::RTA_OIF) {
        Some(through) => vec![Hop::new(through, number(body, 8)?, &all)],
        None => Hop::list(all.value(MULTIPATH)?),
    };
    let metrics = all.value(libc::RTA_METRICS).map(attributes).into_iter().flatten();
    let metrics = metrics.filter(|(kind, _)| *kind != CONGESTION);
    let metrics =
        metrics.filter_map(|(kind, value)| Some((kind, u32::from_ne_bytes(value.try_into().ok()?))));
    let route = Route {
        destination: all.value(libc::RTA_DST).and_then(ip).unwrap_or(nowhere),
        prefix: head[1],
        gateway: None,
        source: all.value(libc::RTA_PREFSRC).and_then(ip),
        metric: all.number(libc::RTA_PRIORITY),
        tos: head[3],
        scope: head[6],
        protocol: head[5],
        flags: 0,
        metrics: metrics.collect(),
    };
    Some((hops, route))
}

/// `struct ndmsg`
fn neighbour(body: &[u8]) -> Option<(u32, Neighbour)> {
    let head: &[u8; 12] = body.first_chunk()?;
    let all = attributes(&body[12..]);
    if u16::from_ne_bytes([head[8], head[9]]) != KNOWN_FOR_EVER {
        return None;
    }
    let address = all.value(libc::NDA_DST).and_then(ip)?;
    let mac = all.value(libc::NDA_LLADDR)?.try_into().ok()?;
    Some((number(body, 4)?, Neighbour { address, mac, flags: head[10] }))
}

#[cfg(test)]
mod tests;
