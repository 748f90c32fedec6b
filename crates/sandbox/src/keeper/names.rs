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
