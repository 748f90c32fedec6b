//! Talks to the kernel: one question at a time, each with a deadline.

use super::message::{ACK, DUMP};
use super::{HEADER, Message, aligned};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{bind, recv, sendto, socket_with};

/// NLMSG_ERROR
const ERROR: u16 = 2;
/// NLMSG_DONE
const DONE: u16 = 3;
/// NLM_F_DUMP_INTR: objects changed meanwhile.
const INTERRUPTED: u16 = 0x10;

/// Dumps come in pieces of at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c).
const BUFFER: usize = 32 << 10;

/// The kernel answers at once; what does not is broken.
const DEADLINE_S: i64 = 10;

/// How often a dump is begun anew that others' changes make worthless.
const ATTEMPTS: usize = 16;

/// Objects of a dump: the kind of the message, and its body behind the header.
pub type Objects = Vec<(u16, Vec<u8>)>;

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn open() -> Result<Self> {
        Self::listen(0)
    }

    /// Opens one that also hears of changes: RTMGRP_* of Linux `include/uapi/linux/rtnetlink.h`. It is not for questions.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn listen(groups: u32) -> Result<Self> {
        let socket =
            // No protocol is NETLINK_ROUTE, which has number 0.
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Socket { socket, sequence: 0 })
    }

    /// Sends a request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn request(&mut self, message: Message) -> Result<()> {
        let sequence = self.send(message, ACK)?;
        loop {
            let mut done = None;
            self.receive(sequence, |kind, _, body| {
                if kind == ERROR {
                    done = Some(error(body));
                }
            })?;
            if let Some(result) = done {
                return result;
            }
        }
    }

    /// Sends a request for all objects of a kind.
    ///
    /// # Errors
    /// The kernel's refusal; [`Errno::INTR`] when objects change all the time.
    pub fn dump(&mut self, message: &Message) -> Result<Objects> {
        for _ in 0..ATTEMPTS {
            if let Some(all) = self.dump_once(message.clone())? {
                return Ok(all);
            }
        }
        Err(Errno::INTR)
    }

    fn dump_once(&mut self, message: Message) -> Result<Option<Objects>> {
        let sequence = self.send(message, DUMP)?;
        let (mut all, mut interrupted, mut end) = (Vec::new(), false, None);
        while end.is_none() {
            self.receive(sequence, |kind, flags, body| {
                interrupted |= flags & INTERRUPTED != 0;
                match kind {
                    ERROR | DONE => end = Some(error(body)),
                    _ => all.push((kind, body.to_vec())),
                }
            })?;
        }
        end.unwrap_or(Ok(()))?;
        Ok((!interrupted).then_some(all))
    }

    /// Throws away what was heard of changes; says whether there was anything.
    pub fn drain(&self) -> bool {
        let mut buffer = [0; 4096];
        let mut heard = false;
        // ENOBUFS: more has changed than the socket could hold.
        while matches!(recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT), Ok(_) | Err(Errno::NOBUFS)) {
            heard = true;
        }
        heard
    }

    fn send(&mut self, message: Message, flags: u16) -> Result<u32> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence, flags);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(self.sequence)
    }

    /// Receives once, and hands on the messages that answer number `sequence`: kind, flags, body.
    fn receive(&self, sequence: u32, mut take: impl FnMut(u16, u16, &[u8])) -> Result<()> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: DEADLINE_S, tv_nsec: 0 })) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Err(Errno::INTR) => return Ok(()),
            result => result.map(drop)?,
        }
        let mut buffer = vec![0; BUFFER];
        let (count, _) = recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT)?;
        for (kind, flags, number, body) in messages(&buffer[..count]) {
            if number == sequence {
                take(kind, flags, body);
            }
        }
        Ok(())
    }
}

/// What NLMSG_ERROR and NLMSG_DONE say: 0, or a negative error number.
fn error(body: &[u8]) -> Result<()> {
    match body.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number)) {
        0 => Ok(()),
        number => Err(Errno::from_raw_os_error(number.saturating_neg())),
    }
}

/// The messages in a datagram: kind, flags, number, body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let head: &[u8; HEADER] = bytes.first_chunk()?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let flags = u16::from_ne_bytes([head[6], head[7]]);
        let number = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, flags, number, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes;
    use proptest::prelude::*;

    /// RTM_GETLINK, and the attribute of a link's name.
    const GET_LINK: u16 = 18;
    const NAME: u16 = 3;

    #[test]
    fn every_namespace_has_a_loopback_interface() {
        let mut socket = Socket::open().unwrap();
        let links = socket.dump(&Message::new(GET_LINK, 0, &[0; 16])).unwrap();
        assert!(links.iter().any(|(_, body)| attributes(&body[16..]).text(NAME).as_deref() == Some("lo")));
    }

    #[test]
    fn a_refusal_is_the_kernels() {
        let mut socket = Socket::open().unwrap();
        let nowhere = Message::new(GET_LINK, 0, &[0; 16]).text(NAME, "no-such-link");
        assert_eq!(socket.request(nowhere), Err(Errno::NODEV));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
        }
    }
}
