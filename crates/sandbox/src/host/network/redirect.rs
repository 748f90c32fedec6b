//! Every frame that comes in at one interface goes out at another: a u32 filter that matches all, with the action mirred, on the
//! ingress queueing discipline. Structures: Linux `include/uapi/linux/{pkt_sched,pkt_cls,rtnetlink}.h`, `tc_act/tc_mirred.h`.

use super::NetworkError;
use super::link;
use super::local_ports::Ports;
use netlink::{CREATE, EXCLUSIVE, Message, Socket, attributes};
use rustix::io::Errno;

/// TC_H_INGRESS
const INGRESS: u32 = 0xffff_fff1;
/// What the ingress discipline is called, and its filters' parent.
const HANDLE: u32 = 0xffff_0000;
/// Priority 3, ETH_P_ALL in network byte order.
const EVERYTHING: u32 = 3 << 16 | (libc::ETH_P_ALL as u16).to_be() as u32;
/// Priority 2, ETH_P_IP.
const ANSWERS: u32 = 2 << 16 | (libc::ETH_P_IP as u16).to_be() as u32;
/// Priority 1, ETH_P_IPV6.
const LOCAL_IPV6: u32 = 1 << 16 | (libc::ETH_P_IPV6 as u16).to_be() as u32;
/// Priority 1, ETH_P_ARP.
const NEIGHBOURS: u32 = 1 << 16 | (libc::ETH_P_ARP as u16).to_be() as u32;

/// First of the local ports to which name servers' answers are let through: 1024 of them, above those that the guest's kernel chooses from.
pub const ANSWER_PORTS: u16 = 0xfc00;

/// All of them.
pub const ANSWERED: Ports = (ANSWER_PORTS, u16::MAX);

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_ACT_COOKIE: u16 = 6;
const TCA_MIRRED_PARMS: u16 = 2;
/// Actions have numbers from 1.
const FIRST_ACTION: u16 = 1;
/// TC_U32_TERMINAL: what matches is done with.
const TERMINAL: u8 = 1;
/// TC_ACT_OK: on it goes to the host's stack.
const OK: u32 = 0;
/// TC_ACT_STOLEN
const STOLEN: u32 = 4;
/// TCA_EGRESS_REDIR, TCA_EGRESS_MIRROR, TCA_INGRESS_REDIR
const EGRESS_REDIRECT: u32 = 1;
const EGRESS_MIRROR: u32 = 2;
const INGRESS_REDIRECT: u32 = 3;

/// Bytes of `struct tcmsg`.
const HEADER: usize = 20;

/// By which a redirection is known to be this container's: TC_COOKIE_MAX_SIZE bytes.
pub type Cookie = [u8; 16];

/// `struct tcmsg`
fn message(kind: u16, flags: u16, index: u32, handle: u32, parent: u32, info: u32) -> Message {
    let numbers = [0, index, handle, parent, info].map(u32::to_ne_bytes);
    Message::new(kind, flags, numbers.as_flattened())
}

fn new_discipline(index: u32) -> Message {
    message(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE, index, HANDLE, INGRESS, 0).text(TCA_KIND, "ingress")
}

fn old_discipline(index: u32) -> Message {
    message(libc::RTM_DELQDISC, 0, index, HANDLE, INGRESS, 0).text(TCA_KIND, "ingress")
}

/// Compares four bytes of a packet: mask, value, where they are behind the start of the network header.
type Key = (u32, u32, u32);

/// `struct tc_u32_sel` with its keys, all of which have to match.
fn selector(keys: &[Key]) -> Vec<u8> {
    let mut selector = vec![TERMINAL, 0, keys.len() as u8, 0];
    selector.resize(16, 0);
    for (mask, value, at) in keys {
        selector.extend([mask.to_be_bytes(), value.to_be_bytes(), at.to_ne_bytes(), [0; 4]].as_flattened());
    }
    selector
}

/// `struct tc_mirred`: index, capabilities, what follows, two counters; what is done, and where to.
fn mirred(then: u32, what: u32, to: u32) -> [[u8; 4]; 7] {
    [0, 0, then, 0, 0, what, to].map(u32::to_ne_bytes)
}

fn new_filter(index: u32, which: u32, keys: &[Key], cookie: &Cookie, mirred: [[u8; 4]; 7]) -> Message {
    message(libc::RTM_NEWTFILTER, CREATE | EXCLUSIVE, index, 0, HANDLE, which).text(TCA_KIND, "u32").nested(
        TCA_OPTIONS,
        |options| {
            options.attribute(TCA_U32_SEL, &selector(keys)).nested(TCA_U32_ACT, |actions| {
                actions.nested(FIRST_ACTION, |action| {
                    action
                        .text(TCA_ACT_KIND, "mirred")
                        .attribute(TCA_ACT_COOKIE, cookie)
                        .nested(TCA_ACT_OPTIONS, |all| all.attribute(TCA_MIRRED_PARMS, mirred.as_flattened()))
                })
            })
        },
    )
}

/// A filter whose packets go on to the host's stack: one without an action, as kernels without `gact` have none for that.
fn new_pass(index: u32, which: u32, keys: &[Key]) -> Message {
    message(libc::RTM_NEWTFILTER, CREATE | EXCLUSIVE, index, 0, HANDLE, which)
        .text(TCA_KIND, "u32")
        .nested(TCA_OPTIONS, |options| options.attribute(TCA_U32_SEL, &selector(keys)))
}

/// A whole datagram, or the first part of one, from port 53 to one of [`ANSWER_PORTS`], behind an IPv4 header without options.
fn answer(protocol: i32) -> [Key; 4] {
    let ports = u32::from(ANSWER_PORTS);
    [
        (0xff00_0000, 0x4500_0000, 0),
        (0x0000_1fff, 0, 4),
        (0x00ff_0000, (protocol as u32) << 16, 8),
        (0xffff_0000 | ports, 53 << 16 | ports, 20),
    ]
}

/// Destinations that mean the host itself to a program that connects to them there: 0.0.0.0/8 and 127.0.0.0/8; of IPv6 ::/16, which has ::, ::1 and
/// the addresses of IPv4 in other forms (RFC 4291).
const LOCAL: [(u32, Key); 3] = [
    (ANSWERS, (0xff00_0000, 0, 16)),
    (ANSWERS, (0xff00_0000, 0x7f00_0000, 16)),
    (LOCAL_IPV6, (0xffff_0000, 0, 24)),
];

/// OP_REPLY of ARP.
const ARP_REPLY: Key = (0x0000_ffff, 2, 4);

/// The bit of a destination's MAC, 14 bytes before the network header, that says that it is a group, or all.
const GROUP: Key = (0x0000_0100, 0x0000_0100, -16_i32 as u32);

/// 01:80:c2:00:00:00 to 01:80:c2:00:00:0f, which bridges do not forward (IEEE 802.1Q, 8.6.3).
const RESERVED: [Key; 2] =
    [(0x0000_ffff, 0x0000_0180, -16_i32 as u32), (0xffff_fff0, 0xc200_0000, -12_i32 as u32)];

/// Adds the discipline, which one only can have, to interface `index` (called `name`).
///
/// # Errors
/// When somebody else takes its packets, or the kernel lacks the discipline.
pub fn claim(socket: &mut Socket, name: &str, index: u32) -> Result<(), NetworkError> {
    match socket.request(new_discipline(index)) {
        Err(Errno::EXIST) => Err(NetworkError::Taken(name.into())),
        result => result.map_err(NetworkError::kernel(format!(
            "adding the ingress queueing discipline to {name} (CONFIG_NET_SCH_INGRESS)"
        ))),
    }
}

/// What comes in for a group at interface `from` (called `name`, and claimed) comes in at `to` instead.
///
/// # Errors
/// When the kernel lacks u32 or mirred.
pub fn hand_groups(
    socket: &mut Socket,
    name: &str,
    from: u32,
    to: u32,
    cookie: &Cookie,
) -> Result<(), NetworkError> {
    filter(socket, name, new_filter(from, EVERYTHING, &[GROUP], cookie, mirred(STOLEN, INGRESS_REDIRECT, to)))
}

/// Sends what comes in at interface `from` (called `name`) for an address that no bridge forwards out at `to`. Also keeps other machines away,
/// as [`redirect`] does.
///
/// # Errors
/// When somebody else takes its packets, or the kernel lacks the discipline, u32 or mirred.
pub fn redirect_reserved(
    socket: &mut Socket,
    name: &str,
    from: u32,
    to: u32,
    cookie: &Cookie,
) -> Result<(), NetworkError> {
    claim(socket, name, from)?;
    filter(socket, name, new_filter(from, EVERYTHING, &RESERVED, cookie, mirred(STOLEN, EGRESS_REDIRECT, to)))
}

fn filter(socket: &mut Socket, name: &str, filter: Message) -> Result<(), NetworkError> {
    socket.request(filter).map_err(NetworkError::kernel(format!(
        "redirecting the packets of {name} (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)"
    )))
}

/// Sends all that comes in at interface `from` (called `name`) out at `to`; if `but_local`, without what is for the host's loopback: that goes to
/// the namespace's own stack, which drops what comes for such an address from outside.
///
/// # Errors
/// When somebody else takes its packets, or the kernel lacks the discipline, u32 or mirred.
pub fn redirect(
    socket: &mut Socket,
    name: &str,
    from: u32,
    to: u32,
    cookie: &Cookie,
    but_local: bool,
) -> Result<(), NetworkError> {
    claim(socket, name, from)?;
    // First, so that nothing gets past.
    for (which, key) in LOCAL.into_iter().filter(|_| but_local) {
        let pass = new_pass(from, which, &[key]);
        socket.request(pass).map_err(NetworkError::kernel("keeping the machine from the host's loopback"))?;
    }
    let redirect = mirred(STOLEN, EGRESS_REDIRECT, to);
    filter(socket, name, new_filter(from, EVERYTHING, &[(0, 0, 0)], cookie, redirect))
}

/// Lets answers of name servers to [`ANSWER_PORTS`] that come in at `from` through to the host's stack, in spite of its redirection to `to`, and
/// those of neighbours to both.
///
/// # Errors
/// When the kernel refuses.
pub fn let_answers_in(socket: &mut Socket, from: u32, to: u32, cookie: &Cookie) -> Result<(), NetworkError> {
    let both = mirred(OK, EGRESS_MIRROR, to);
    let filters = [
        new_filter(from, NEIGHBOURS, &[ARP_REPLY], cookie, both),
        new_pass(from, ANSWERS, &answer(libc::IPPROTO_UDP)),
        new_pass(from, ANSWERS, &answer(libc::IPPROTO_TCP)),
    ];
    for filter in filters {
        socket.request(filter).map_err(NetworkError::kernel("letting answers of name servers through"))?;
    }
    Ok(())
}

/// Ends a redirection of interface `index`, unless it is somebody else's; that there is none is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(socket: &mut Socket, index: u32, cookie: &Cookie) -> Result<(), NetworkError> {
    let failed = |what| NetworkError::kernel(what);
    let get = message(libc::RTM_GETTFILTER, 0, index, 0, HANDLE, 0);
    let filters = match socket.dump(&get) {
        // There is no such discipline, or no such interface.
        Err(Errno::INVAL | Errno::NODEV | Errno::NOENT) => return Ok(()),
        filters => filters.map_err(failed("listing filters"))?,
    };
    // A discipline without a filter is one that we made right before we were killed.
    if filters.iter().filter_map(|(_, body)| cookie_of(body)).any(|found| found != cookie) {
        return Ok(());
    }
    end(socket, index)
}

/// Frees interface `index` of another machine, whosever it is and by whichever model; that there is none is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn take(socket: &mut Socket, index: u32) -> Result<(), NetworkError> {
    for link in super::scan::lasting_on(socket, index)? {
        match socket.request(link::request(libc::RTM_DELLINK, 0, link, 0)) {
            Err(Errno::NODEV) => {}
            result => result.map_err(NetworkError::kernel("removing another machine's interface"))?,
        }
    }
    end(socket, index)
}

fn end(socket: &mut Socket, index: u32) -> Result<(), NetworkError> {
    match socket.request(old_discipline(index)) {
        Err(Errno::INVAL | Errno::NODEV | Errno::NOENT) => Ok(()),
        result => result.map_err(NetworkError::kernel("removing the ingress queueing discipline")),
    }
}

/// The cookie of a filter that does something; empty for one without. `None` for what is no filter, but a table of them, and for a filter that
/// takes packets from the redirection, which has no place for a cookie.
fn cookie_of(body: &[u8]) -> Option<&[u8]> {
    let all = attributes(body.get(HEADER..)?);
    let kind = all.value(TCA_KIND)?;
    let options = attributes(all.value(TCA_OPTIONS)?);
    let which = body.get(HEADER - 4..HEADER)?;
    if kind == b"u32\0"
        && (options.value(TCA_U32_SEL).is_none()
            || [ANSWERS, LOCAL_IPV6].map(u32::to_ne_bytes).iter().any(|pass| which == pass))
    {
        return None;
    }
    let action = options.value(TCA_U32_ACT).and_then(|actions| attributes(actions).value(FIRST_ACTION));
    Some(action.and_then(|action| attributes(action).value(TCA_ACT_COOKIE)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: Cookie = *b"0123456789abcdef";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_discipline_is_what_tc_asks_for() {
        let message = new_discipline(7);
        let head = [0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0xff, 0xff, 0xf1, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(message.body()[..HEADER], head);
        assert_eq!(message.body()[HEADER..], *b"\x0c\0\x01\0ingress\0");
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_filter_matches_all_and_sends_it_out_elsewhere() {
        let redirect = mirred(STOLEN, EGRESS_REDIRECT, 9);
        let message = new_filter(7, EVERYTHING, &[(0, 0, 0)], &COOKIE, redirect);
        // Priority 3, ETH_P_ALL (3) in network byte order.
        assert_eq!(message.body()[8..HEADER], [0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 3, 3, 0]);
        let options = attributes(attributes(&message.body()[HEADER..]).value(TCA_OPTIONS).unwrap());
        let selector = options.value(TCA_U32_SEL).unwrap();
        assert_eq!((selector.len(), selector[0], selector[2]), (32, TERMINAL, 1));
        assert!(selector[16..].iter().all(|byte| *byte == 0), "a key that compares nothing");
        let action = attributes(attributes(options.value(TCA_U32_ACT).unwrap()).value(FIRST_ACTION).unwrap());
        assert_eq!(action.text(TCA_ACT_KIND).as_deref(), Some("mirred"));
        let mirred = attributes(action.value(TCA_ACT_OPTIONS).unwrap()).value(TCA_MIRRED_PARMS).unwrap();
        assert_eq!((mirred.len(), mirred[8], mirred[20], mirred[24]), (28, 4, 1, 9));
    }

    /// What the kernel's u32 does with the keys of a message.
    fn matches(message: &Message, packet: &[u8]) -> bool {
        let options = attributes(attributes(&message.body()[HEADER..]).value(TCA_OPTIONS).unwrap());
        let selector = options.value(TCA_U32_SEL).unwrap();
        assert_eq!(selector[16..].len(), usize::from(selector[2]) * 16);
        selector[16..].chunks(16).all(|key| {
            let at = u32::from_ne_bytes(key[8..12].try_into().unwrap()) as usize;
            (0..4).all(|i| packet[at + i] & key[i] == key[4 + i])
        })
    }

    #[test]
    fn answers_of_name_servers_alone_go_to_the_host() {
        let packet = |protocol: u8, from: u16, to: u16, fragment: u16| {
            let mut packet = vec![0x45, 0, 0, 60, 1, 2];
            packet.extend(fragment.to_be_bytes());
            packet.extend([64, protocol, 3, 4, 192, 0, 2, 1, 192, 0, 2, 2]);
            packet.extend([from.to_be_bytes(), to.to_be_bytes()].as_flattened());
            packet.resize(60, 9);
            packet
        };
        let udp = new_pass(7, ANSWERS, &answer(libc::IPPROTO_UDP));
        let tcp = new_pass(7, ANSWERS, &answer(libc::IPPROTO_TCP));
        assert!(matches(&udp, &packet(17, 53, 64512, 0)) && matches(&udp, &packet(17, 53, 65535, 0x4000)));
        assert!(matches(&tcp, &packet(6, 53, 65000, 0)) && !matches(&tcp, &packet(17, 53, 65000, 0)));
        for other in [
            packet(17, 53, 64511, 0),
            packet(17, 54, 65000, 0),
            packet(17, 53, 65000, 1),
            packet(1, 53, 65000, 0),
        ] {
            assert!(!matches(&udp, &other), "{other:?}");
        }
    }

    #[test]
    fn frames_for_groups_are_told_from_others() {
        let redirect = mirred(STOLEN, INGRESS_REDIRECT, 9);
        assert_eq!((redirect[5], redirect[6]), (3_u32.to_ne_bytes(), 9_u32.to_ne_bytes()));
        // Whether a frame to this address is meant: its header, of 14 bytes, is before what keys count from.
        let matches = |keys: &[Key], mac: [u8; 6]| {
            let frame = [[9, 9].as_slice(), &mac, &[9; 8]].concat();
            selector(keys)[16..].chunks(16).all(|key| {
                let at = i32::from_ne_bytes(key[8..12].try_into().unwrap()) + 16;
                (0..4).all(|i| frame[at as usize + i] & key[i] == key[4 + i])
            })
        };
        for group in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 1], [1, 0x80, 0xc2, 0, 0, 0x10]]
        {
            assert!(matches(&[GROUP], group) && !matches(&RESERVED, group), "{group:?}");
        }
        for other in [[2, 0xff, 1, 1, 1, 1], [0xfe, 1, 0xff, 0xff, 0xff, 0xff]] {
            assert!(!matches(&[GROUP], other) && !matches(&RESERVED, other), "{other:?}");
        }
        for last in [0, 3, 0xe, 0xf] {
            assert!(matches(&RESERVED, [1, 0x80, 0xc2, 0, 0, last]), "{last}");
        }
    }

    #[test]
    fn what_means_the_host_itself_is_not_redirected() {
        let stays = |address: &str| {
            let address: std::net::IpAddr = address.parse().unwrap();
            let (at, bytes, family) = match address {
                std::net::IpAddr::V4(four) => (16, four.octets().to_vec(), ANSWERS),
                std::net::IpAddr::V6(six) => (24, six.octets().to_vec(), LOCAL_IPV6),
            };
            let packet = [vec![9; at], bytes, vec![9; 20]].concat();
            LOCAL
                .iter()
                .any(|(which, key)| *which == family && matches(&new_pass(7, *which, &[*key]), &packet))
        };
        for local in ["127.0.0.1", "127.255.0.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1"] {
            assert!(stays(local), "{local}");
        }
        for other in
            ["128.0.0.1", "10.0.2.2", "1.127.0.0", "fe80::1", "64:ff9b::1", "2001:db8::", "fd00::127"]
        {
            assert!(!stays(other), "{other}");
        }
    }

    #[test]
    fn ours_is_told_from_others() {
        let filter = |keys| new_filter(7, EVERYTHING, keys, &COOKIE, mirred(STOLEN, EGRESS_REDIRECT, 9));
        assert_eq!(cookie_of(filter(&[(0, 0, 0)]).body()), Some(COOKIE.as_slice()));
        assert_eq!(cookie_of(new_pass(7, ANSWERS, &answer(libc::IPPROTO_UDP)).body()), None);
        assert_eq!(cookie_of(new_pass(7, LOCAL_IPV6, &[LOCAL[2].1]).body()), None);
        let other = message(libc::RTM_NEWTFILTER, 0, 7, 0, HANDLE, 0).text(TCA_KIND, "bpf");
        assert_eq!(cookie_of(other.clone().nested(TCA_OPTIONS, |m| m).body()), Some([].as_slice()));
        let table = message(libc::RTM_NEWTFILTER, 0, 7, 0, HANDLE, 0).text(TCA_KIND, "u32");
        assert_eq!(cookie_of(table.nested(TCA_OPTIONS, |m| m.attribute(4, &[1])).body()), None);
    }
}
