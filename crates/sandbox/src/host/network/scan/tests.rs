//! What the kernel lists, and what becomes of it.

use super::*;

const INDEX: u32 = 7;

fn address_of(family: i32, prefix: u8, flags: u32, fill: impl FnOnce(Message) -> Message) -> Option<Address> {
    let [a, b, c, d] = INDEX.to_ne_bytes();
    let head = [family as u8, prefix, 0, 0, a, b, c, d];
    let message =
        fill(Message::new(libc::RTM_NEWADDR, 0, &head).attribute(libc::IFA_FLAGS, &flags.to_ne_bytes()));
    address(message.body(), "eth0").map(|(index, address)| {
        assert_eq!(index, INDEX);
        address
    })
}

fn route_of(family: i32, prefix: u8, protocol: u8, fill: impl FnOnce(Message) -> Message) -> Option<Route> {
    let head = [family as u8, prefix, 0, 0, 254, protocol, 0, 1, 4, 0, 0, 0];
    let message = Message::new(libc::RTM_NEWROUTE, 0, &head).attribute(libc::RTA_OIF, &INDEX.to_ne_bytes());
    let found = route(fill(message).body()).pop()?;
    assert_eq!(found.through, INDEX);
    Some(found.route)
}

fn link_of(kind: u16, name: &str, fill: impl FnOnce(Message) -> Message) -> Option<Interface> {
    let [low, high] = kind.to_ne_bytes();
    let [a, b, c, d] = INDEX.to_ne_bytes();
    let head = [0, 0, low, high, a, b, c, d, 1, 0, 0, 0, 0, 0, 0, 0];
    let message = Message::new(libc::RTM_NEWLINK, 0, &head)
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_MTU, &1450_u32.to_ne_bytes())
        .attribute(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]);
    link(fill(message).body(), &[9]).map(|found| found.interface)
}

#[test]
fn ethernet_interfaces_are_taken_and_others_are_not() {
    let eth0 = link_of(ETHERNET, "eth0", |m| m).unwrap();
    assert_eq!((eth0.mac, eth0.mtu, eth0.up), ([2, 0, 0, 0, 0, 9], 1450, true));
    assert!(link_of(65534, "wg0", |m| m).is_none(), "no Ethernet");
    assert!(link_of(ETHERNET, "port", |m| m.attribute(libc::IFLA_MASTER, &[3, 0, 0, 0])).is_none());
    let port = |m: Message| m.attribute(libc::IFLA_MASTER, &9_u32.to_ne_bytes());
    assert!(link_of(ETHERNET, "eth0", port).is_some(), "a port of a bridge of ours");
    let kind = |kind: &'static str| {
        move |m: Message| m.nested(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, kind))
    };
    assert!(link_of(ETHERNET, "clearb123456780", kind("bridge")).is_none(), "a bridge of ours");
    assert!(link_of(ETHERNET, "clearv123456780", kind("macvtap")).is_none(), "a macvtap of ours");
    assert!(
        link_of(ETHERNET, "br0", kind("bridge")).is_some()
            && link_of(ETHERNET, "macvtap0", kind("macvtap")).is_some()
    );
    let tun = |m: Message| m.nested(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, "tun"));
    assert!(link_of(ETHERNET, "clear0", tun).is_none(), "a tap of ours");
    assert!(link_of(ETHERNET, "tap0", tun).is_some() && link_of(ETHERNET, "clear0", |m| m).is_some());
}

#[test]
fn addresses_keep_what_the_guest_needs() {
    let plain = |m: Message| {
        m.attribute(libc::IFA_ADDRESS, &[10, 1, 0, 2])
            .attribute(libc::IFA_LOCAL, &[10, 1, 0, 2])
            .attribute(libc::IFA_BROADCAST, &[10, 1, 0, 255])
            .text(libc::IFA_LABEL, "eth0")
    };
    let found = address_of(libc::AF_INET, 24, PERMANENT | NO_PREFIX_ROUTE, plain).unwrap();
    assert_eq!((found.address, found.prefix), ("10.1.0.2".parse().unwrap(), 24));
    assert_eq!((found.peer, found.label, found.flags), (None, None, NO_PREFIX_ROUTE));
    assert_eq!(found.broadcast, Some("10.1.0.255".parse().unwrap()));
    let peer = |m: Message| {
        m.attribute(libc::IFA_ADDRESS, &[10, 1, 0, 1])
            .attribute(libc::IFA_LOCAL, &[10, 1, 0, 2])
            .text(libc::IFA_LABEL, "eth0:1")
    };
    let found = address_of(libc::AF_INET, 32, PERMANENT, peer).unwrap();
    assert_eq!((found.peer, found.label.as_deref()), (Some("10.1.0.1".parse().unwrap()), Some("eth0:1")));
}

#[test]
fn addresses_from_a_router_are_left_to_the_guest() {
    let of_ipv6 = |flags| address_of(libc::AF_INET6, 64, flags, |m| m.attribute(libc::IFA_ADDRESS, &[1; 16]));
    assert!(of_ipv6(PERMANENT).is_some());
    assert!(of_ipv6(0).is_none() && of_ipv6(PERMANENT | TEMPORARY).is_none());
    assert!(of_ipv6(PERMANENT | DUPLICATE).is_none(), "somebody else has it");
}

#[test]
fn routes_keep_gateway_metric_and_path_mtu() {
    let fill = |m: Message| {
        m.attribute(libc::RTA_DST, &[10, 9, 0, 0])
            .attribute(libc::RTA_GATEWAY, &[169, 254, 1, 1])
            .attribute(libc::RTA_PRIORITY, &50_u32.to_ne_bytes())
            .nested(libc::RTA_METRICS, |all| {
                all.attribute(2, &1400_u32.to_ne_bytes()).text(CONGESTION, "bbr")
            })
    };
    let found = route_of(libc::AF_INET, 16, 3, fill).unwrap();
    assert_eq!((found.destination, found.prefix), ("10.9.0.0".parse().unwrap(), 16));
    assert_eq!((found.gateway, found.flags), (Some("169.254.1.1".parse().unwrap()), ON_LINK));
    assert_eq!((found.metric, found.metrics), (Some(50), vec![(2, 1400)]));
    let via = |m: Message| {
        let ipv6 = (libc::AF_INET6 as u16).to_ne_bytes();
        m.attribute(VIA, &[ipv6.as_slice(), &[0xfe; 16]].concat())
    };
    let found = route_of(libc::AF_INET, 0, 3, via).unwrap();
    assert_eq!(found.destination, IpAddr::from([0; 4]));
    assert!(found.gateway.unwrap().is_ipv6());
    let local = [libc::AF_INET as u8, 32, 0, 0, 255, 2, 254, 2, 0, 0, 0, 0];
    assert!(route(Message::new(0, 0, &local).body()).is_empty(), "another table, another kind");
}

#[test]
fn each_next_hop_is_a_route() {
    let head = [libc::AF_INET6 as u8, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    let hop = |through: u32, flags: u8, last: u8| {
        let gateway = [20, 0, libc::RTA_GATEWAY as u8, 0].into_iter().chain([0xfe; 15]).chain([last]);
        [28, 0, flags, 0].into_iter().chain(through.to_ne_bytes()).chain(gateway).collect::<Vec<u8>>()
    };
    let message = Message::new(libc::RTM_NEWROUTE, 0, &head)
        .attribute(MULTIPATH, &[hop(7, 0, 1), hop(9, ON_LINK as u8, 2)].concat());
    let found = route(message.body());
    let hops: Vec<_> = found.iter().map(|r| (r.through, r.route.gateway.unwrap(), r.route.flags)).collect();
    let gateway =
        |last| IpAddr::from(<[u8; 16]>::try_from([[0xfe; 15].as_slice(), &[last]].concat()).unwrap());
    assert_eq!(hops, [(7, gateway(1), 0), (9, gateway(2), ON_LINK)]);
    assert!(Hop::list(&[8, 0, 0, 0, 1, 0, 0, 0, 99, 0]).len() == 1, "cut");
}

#[test]
fn a_network_whose_route_was_taken_away_gets_none_from_the_guests_kernel() {
    let kernel = |destination: &str, prefix| Route {
        destination: destination.parse().unwrap(),
        prefix,
        ..route_of(libc::AF_INET, 0, BY_KERNEL, |m| m).unwrap()
    };
    let plain = |address: [u8; 4], prefix| {
        address_of(libc::AF_INET, prefix, PERMANENT, |m| m.attribute(libc::IFA_LOCAL, &address)).unwrap()
    };
    let mut addresses = [plain([10, 1, 2, 3], 16), plain([10, 2, 0, 3], 24), plain([10, 3, 0, 1], 32)];
    let route = kernel("10.1.0.0", 16);
    keep_kernel_from_routes(&mut addresses, &[&route]);
    assert_eq!(addresses.map(|a| a.flags), [0, NO_PREFIX_ROUTE, 0]);
    assert_eq!(masked("fd00:1::5".parse().unwrap(), 64), "fd00:1::".parse::<IpAddr>().unwrap());
    assert_eq!(masked("10.1.2.3".parse().unwrap(), 0), IpAddr::from([0; 4]));
}

#[test]
fn only_what_is_known_for_ever_is_a_neighbour() {
    let of_state = |state: u16| {
        let [a, b, c, d] = INDEX.to_ne_bytes();
        let [low, high] = state.to_ne_bytes();
        let head = [libc::AF_INET as u8, 0, 0, 0, a, b, c, d, low, high, 0, 1];
        let message = Message::new(libc::RTM_NEWNEIGH, 0, &head)
            .attribute(libc::NDA_DST, &[169, 254, 1, 1])
            .attribute(libc::NDA_LLADDR, &[0xee; 6]);
        neighbour(message.body())
    };
    let (index, found) = of_state(KNOWN_FOR_EVER).unwrap();
    assert_eq!((index, found.mac, found.address.to_string().as_str()), (INDEX, [0xee; 6], "169.254.1.1"));
    assert!(of_state(2).is_none(), "reachable now");
}
