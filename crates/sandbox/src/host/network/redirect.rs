//! Every frame that comes in at one interface goes out at another: a u32 filter that matches all, with the action mirred, on the
//! ingress queueing discipline. Structures: Linux `include/uapi/linux/{pkt_sched,pkt_cls,rtnetlink}.h`, `tc_act/tc_mirred.h`.

use super::NetworkError;
use netlink::{CREATE, EXCLUSIVE, Message, Socket, attributes};
use rustix::io::Errno;

/// TC_H_INGRESS
const INGRESS: u32 = 0xffff_fff1;
/// What the ingress discipline is called, and its filters' parent.
const HANDLE: u32 = 0xffff_0000;
/// Priority 1, ETH_P_ALL in network byte order.
const EVERYTHING: u32 = 1 << 16 | (libc::ETH_P_ALL as u16).to_be() as u32;

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
/// TC_ACT_STOLEN
const STOLEN: u32 = 4;
/// TCA_EGRESS_REDIR
const EGRESS_REDIRECT: u32 = 1;

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

fn new_filter(index: u32, to: u32, cookie: &Cookie) -> Message {
    // struct tc_u32_sel with one key of 16 bytes, which compares nothing.
    let mut selector = [0; 32];
    selector[0] = TERMINAL;
    selector[2] = 1;
    // struct tc_mirred: index, capabilities, what follows, two counters; what is done, and where to.
    let mirred = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to].map(u32::to_ne_bytes);
    message(libc::RTM_NEWTFILTER, CREATE | EXCLUSIVE, index, 0, HANDLE, EVERYTHING)
        .text(TCA_KIND, "u32")
        .nested(TCA_OPTIONS, |options| {
            options.attribute(TCA_U32_SEL, &selector).nested(TCA_U32_ACT, |actions| {
                actions.nested(FIRST_ACTION, |action| {
                    action
                        .text(TCA_ACT_KIND, "mirred")
                        .attribute(TCA_ACT_COOKIE, cookie)
                        .nested(TCA_ACT_OPTIONS, |all| all.attribute(TCA_MIRRED_PARMS, mirred.as_flattened()))
                })
            })
        })
}

/// Sends all that comes in at interface `from` (called `name`) out at `to`.
///
/// # Errors
/// When somebody else takes its packets, or the kernel lacks the discipline, u32 or mirred.
pub fn redirect(
    socket: &mut Socket,
    name: &str,
    from: u32,
    to: u32,
    cookie: &Cookie,
) -> Result<(), NetworkError> {
    match socket.request(new_discipline(from)) {
        Err(Errno::EXIST) => return Err(NetworkError::Taken(name.into())),
        result => result.map_err(NetworkError::kernel(format!(
            "adding the ingress queueing discipline to {name} (CONFIG_NET_SCH_INGRESS)"
        )))?,
    }
    socket.request(new_filter(from, to, cookie)).map_err(NetworkError::kernel(format!(
        "redirecting the packets of {name} (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)"
    )))
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
    take(socket, index)
}

/// Ends a redirection of interface `index`, whosever it is; that there is none is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn take(socket: &mut Socket, index: u32) -> Result<(), NetworkError> {
    match socket.request(old_discipline(index)) {
        Err(Errno::INVAL | Errno::NODEV | Errno::NOENT) => Ok(()),
        result => result.map_err(NetworkError::kernel("removing the ingress queueing discipline")),
    }
}

/// The cookie of a filter that does something; empty for one without. `None` for what is no filter, but a table of them.
fn cookie_of(body: &[u8]) -> Option<&[u8]> {
    let all = attributes(body.get(HEADER..)?);
    let kind = all.value(TCA_KIND)?;
    let options = attributes(all.value(TCA_OPTIONS)?);
    if kind == b"u32\0" && options.value(TCA_U32_SEL).is_none() {
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
        let message = new_filter(7, 9, &COOKIE);
        // Priority 1, ETH_P_ALL (3) in network byte order.
        assert_eq!(message.body()[8..HEADER], [0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 3, 1, 0]);
        let options = attributes(attributes(&message.body()[HEADER..]).value(TCA_OPTIONS).unwrap());
        let selector = options.value(TCA_U32_SEL).unwrap();
        assert_eq!((selector.len(), selector[0], selector[2]), (32, TERMINAL, 1));
        assert!(selector[16..].iter().all(|byte| *byte == 0), "a key that compares nothing");
        let action = attributes(attributes(options.value(TCA_U32_ACT).unwrap()).value(FIRST_ACTION).unwrap());
        assert_eq!(action.text(TCA_ACT_KIND).as_deref(), Some("mirred"));
        let mirred = attributes(action.value(TCA_ACT_OPTIONS).unwrap()).value(TCA_MIRRED_PARMS).unwrap();
        assert_eq!((mirred.len(), mirred[8], mirred[20], mirred[24]), (28, 4, 1, 9));
    }

    #[test]
    fn ours_is_told_from_others() {
        assert_eq!(cookie_of(new_filter(7, 9, &COOKIE).body()), Some(COOKIE.as_slice()));
        let other = message(libc::RTM_NEWTFILTER, 0, 7, 0, HANDLE, 0).text(TCA_KIND, "bpf");
        assert_eq!(cookie_of(other.clone().nested(TCA_OPTIONS, |m| m).body()), Some([].as_slice()));
        let table = message(libc::RTM_NEWTFILTER, 0, 7, 0, HANDLE, 0).text(TCA_KIND, "u32");
        assert_eq!(cookie_of(table.nested(TCA_OPTIONS, |m| m.attribute(4, &[1])).body()), None);
    }
}
