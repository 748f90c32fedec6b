//! Takes the guest's questions to the name server that an engine has put into the network namespace (`guest_protocol::names`).
//!
//! Docker answers at 127.0.0.11 in there, and asks other name servers from there when it does not know: the keeper asks it, and lets the
//! other servers' answers, which the guest would get otherwise, through to the namespace ([`Network::let_answers_in`]).
//!
//! ```text
//!   guest ──stream──► Relay ──socket of the namespace──► 127.0.0.11:53 ──► answers from elsewhere to ports 64512 and up
//! ```
//!
//! [`Network::let_answers_in`]: super::network::Network::let_answers_in

use super::agent_client::DEADLINE;
use super::face::staged;
use super::running::{Keeper, Waiting};
use guest_protocol::message::{RequestBody, Step};
use guest_protocol::mux::{Mux, StreamId};
use guest_protocol::names;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, connect, recv, send, shutdown,
    socket_with,
};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// How long a question may take, and a connection be there: Docker itself gives up after fewer seconds.
const LIFE: Duration = Duration::from_secs(20);

/// Most bytes of a `resolv.conf` that are looked at.
const MAX_FILE: u64 = 64 << 10;

/// Longest message of DNS, and most bytes moved at a time.
const BUFFER: usize = 64 << 10;

/// The questions that are on their way.
#[derive(Debug, Default)]
pub(super) struct Names {
    offered: bool,
    relays: Vec<Relay>,
}

/// A stream of the guest and its socket.
#[derive(Debug)]
struct Relay {
    stream: StreamId,
    socket: OwnedFd,
    /// For datagrams: the part of the question that has come, until it is asked.
    question: Option<Vec<u8>>,
    datagrams: bool,
    ends: Instant,
}

/// What became of a relay.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    GoesOn,
    /// The answer is on its way.
    Over,
}

impl Names {
    /// The guest asks. What is too much is refused.
    pub fn open(&mut self, mux: &mut Mux, stream: StreamId, datagrams: bool, now: Instant) {
        let socket = if self.offered && self.relays.len() < names::MOST { ask(datagrams).ok() } else { None };
        let Some(socket) = socket else { return mux.reset(stream) };
        let question = datagrams.then(Vec::new);
        self.relays.push(Relay { stream, socket, question, datagrams, ends: now + LIFE });
    }

    /// What to wait for.
    pub fn interests<'a>(&'a self, mux: &'a Mux) -> impl Iterator<Item = (BorrowedFd<'a>, PollFlags)> {
        let wants = |yes, what| if yes { what } else { PollFlags::empty() };
        let all = self.relays.iter().map(move |relay| {
            let read = wants(relay.has_room(mux), PollFlags::IN);
            let write = wants(!mux.pending(relay.stream).is_empty(), PollFlags::OUT);
            (relay.socket.as_fd(), read | write)
        });
        // An error of a socket that nobody could act on would come again and again.
        all.filter(|(_, flags)| !flags.is_empty())
    }

    /// When the first one has been there for too long.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.relays.iter().map(|relay| relay.ends).min()
    }

    /// Moves what can be moved, ends what is over.
    pub fn turn(&mut self, mux: &mut Mux, now: Instant) {
        if self.relays.is_empty() {
            return;
        }
        let mut buffer = vec![0; BUFFER];
        self.relays.retain_mut(|relay| {
            let turn = if relay.ends > now && mux.is_open(relay.stream) {
                relay.turn(mux, &mut buffer)
            } else {
                Err(Errno::TIMEDOUT)
            };
            if turn.is_err() {
                mux.reset(relay.stream);
            }
            turn == Ok(Turn::GoesOn)
        });
    }
}

/// A socket of the calling thread's network namespace to the name server.
fn ask(datagrams: bool) -> Result<OwnedFd, Errno> {
    let kind = if datagrams { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &SocketAddrV4::new(names::SERVER, names::PORT)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

impl Relay {
    /// An error of the socket ends it.
    fn turn(&mut self, mux: &mut Mux, buffer: &mut [u8]) -> Result<Turn, Errno> {
        self.take_question(mux)?;
        self.give_answer(mux, buffer)
    }

    fn take_question(&mut self, mux: &mut Mux) -> Result<(), Errno> {
        while !mux.pending(self.stream).is_empty() {
            let bytes = mux.pending(self.stream);
            let count = match &mut self.question {
                Some(question) => {
                    question.extend(bytes);
                    if question.len() > 2 + names::MAX_QUESTION {
                        return Err(Errno::MSGSIZE);
                    }
                    bytes.len()
                }
                // One question for each stream.
                None if self.datagrams => return Err(Errno::MSGSIZE),
                None => match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                    sent => sent?,
                },
            };
            mux.consume(self.stream, count);
            if let Some(message) = self.question.as_deref().and_then(names::message) {
                send(&self.socket, message, SendFlags::NOSIGNAL)?;
                self.question = None;
            }
        }
        if !self.datagrams && mux.at_end(self.stream) {
            // A second time is harmless.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
        Ok(())
    }

    /// Whether an answer could be passed on.
    fn has_room(&self, mux: &Mux) -> bool {
        mux.sendable(self.stream) >= BUFFER + 2
    }

    fn give_answer(&self, mux: &mut Mux, buffer: &mut [u8]) -> Result<Turn, Errno> {
        if !self.has_room(mux) {
            return Ok(Turn::GoesOn);
        }
        let count = match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Turn::GoesOn),
            received => received?.0,
        };
        let bytes = &buffer[..count];
        if self.datagrams {
            mux.send(self.stream, &names::framed(bytes).ok_or(Errno::MSGSIZE)?);
        } else if count > 0 {
            mux.send(self.stream, bytes);
            return Ok(Turn::GoesOn);
        }
        mux.finish(self.stream);
        Ok(Turn::Over)
    }
}

impl Keeper {
    /// Lets the guest ask, once the container's `resolv.conf` names the server and there is an interface. Engines write that file when they
    /// put the interface there.
    pub(super) fn offer_names(&mut self) {
        if self.names.offered || !self.names_a_server() {
            return;
        }
        let Some(network) = self.network.as_mut().filter(|network| network.has_interfaces()) else { return };
        self.names.offered = true;
        let sent = match network.let_answers_in() {
            Ok(()) => self.send(RequestBody::NameService, Waiting::Names, DEADLINE).map_err(|e| e.message),
            Err(error) => Err(error.to_string()),
        };
        if let Err(message) = sent {
            self.warn_of_network(&message);
        }
    }

    /// Whether the container's `resolv.conf` is a file of the host that names the server.
    fn names_a_server(&self) -> bool {
        let file = self.plan.guest.steps.iter().find_map(|step| match step {
            Step::Mount(mount) if mount.destination == "/etc/resolv.conf" => {
                staged(&self.dir.stage(), &mount.source)
            }
            _ => None,
        });
        // Whatever it is, it does not hold up the keeper.
        let open =
            |path| File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
        let Some(Ok(file)) = file.map(open) else { return false };
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).is_ok() && names::is_named_in(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_protocol::mux::Side;
    use std::net::{TcpListener, UdpSocket};

    /// Guest, host, and a relay that was opened from one to the other.
    struct Both {
        guest: Mux,
        host: Mux,
        names: Names,
        stream: StreamId,
    }

    impl Both {
        fn new(socket: impl Into<OwnedFd>, datagrams: bool) -> Self {
            let (mut guest, host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
            let (socket, stream) = (socket.into(), guest.open(names::STREAM_PORT));
            rustix::io::ioctl_fionbio(&socket, true).unwrap();
            let question = datagrams.then(Vec::new);
            let relay = Relay { stream, socket, question, datagrams, ends: Instant::now() + LIFE };
            let mut both = Both { guest, host, names: Names { offered: true, relays: vec![relay] }, stream };
            carry(&mut both.guest, &mut both.host);
            both
        }

        fn turn(&mut self) {
            carry(&mut self.guest, &mut self.host);
            self.names.turn(&mut self.host, Instant::now());
            carry(&mut self.host, &mut self.guest);
        }

        fn turn_until(&mut self, done: impl Fn(&Self) -> bool) {
            for _ in 0..1000 {
                self.turn();
                if done(self) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("it did not happen");
        }
    }

    fn carry(from: &mut Mux, to: &mut Mux) {
        while !from.output().is_empty() {
            let bytes = from.output().to_vec();
            from.sent(bytes.len());
            to.receive(&bytes).unwrap();
        }
    }

    fn server_and_client() -> (UdpSocket, UdpSocket) {
        let [server, client] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        client.connect(server.local_addr().unwrap()).unwrap();
        (server, client)
    }

    #[test]
    fn a_question_in_pieces_is_asked_once_and_answered() {
        let (server, client) = server_and_client();
        let mut both = Both::new(client, true);
        let question = names::framed(b"who are you?").unwrap();
        for byte in &question {
            both.guest.send(both.stream, &[*byte]);
            both.turn();
        }
        both.guest.finish(both.stream);
        let mut buffer = [0; 100];
        let (count, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"who are you?");
        server.send_to(b"me", from).unwrap();
        both.turn_until(|both| both.names.relays.is_empty());
        assert_eq!(names::message(both.guest.pending(both.stream)), Some(b"me".as_slice()));
        assert!(!both.host.is_open(both.stream));
    }

    #[test]
    fn a_question_that_is_too_long_or_not_the_only_one_ends_its_stream() {
        let second = [names::framed(b"one").unwrap(), b"more".to_vec()].concat();
        for wrong in [vec![0xff; names::MAX_QUESTION + 3], second] {
            let (_server, client) = server_and_client();
            let mut both = Both::new(client, true);
            both.guest.send(both.stream, &wrong);
            both.turn();
            both.guest.send(both.stream, b"still more");
            both.turn();
            assert!(both.names.relays.is_empty() && !both.guest.is_open(both.stream));
        }
    }

    #[test]
    fn nobody_there_or_no_answer_in_time_ends_the_stream() {
        let (server, client) = server_and_client();
        drop(server);
        let mut both = Both::new(client, true);
        both.guest.send(both.stream, &names::framed(b"x").unwrap());
        both.turn_until(|both| !both.guest.is_open(both.stream));
        let (_server, client) = server_and_client();
        let mut both = Both::new(client, true);
        assert!(both.names.next_deadline().is_some());
        both.names.turn(&mut both.host, Instant::now() + LIFE);
        assert!(both.names.relays.is_empty() && !both.host.is_open(both.stream));
    }

    #[test]
    fn a_connection_carries_both_ways_until_the_server_ends_it() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        let mut both = Both::new(client, false);
        both.guest.send(both.stream, b"question");
        both.turn();
        let mut buffer = [0; 8];
        server.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"question");
        server.write_all(b"answer").unwrap();
        drop(server);
        both.turn_until(|both| both.names.relays.is_empty());
        assert_eq!(both.guest.pending(both.stream), b"answer");
        both.guest.consume(both.stream, 6);
        assert!(both.guest.at_end(both.stream) && both.guest.is_open(both.stream));
    }

    #[test]
    fn too_many_and_those_of_a_guest_that_was_not_asked_to_are_refused() {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let mut names = Names::default();
        for offered in [false, true] {
            names.offered = offered;
            for _ in 0..names::MOST + 5 {
                let stream = guest.open(names::DATAGRAM_PORT);
                carry(&mut guest, &mut host);
                names.open(&mut host, stream, true, Instant::now());
            }
            assert_eq!(names.relays.len(), if offered { names::MOST } else { 0 });
        }
        carry(&mut host, &mut guest);
    }
}
