//! One client: bytes and descriptors in, lines out. Never waits.
//!
//! ```text
//!   recvmsg ─► input, at most MAX_LINE ─► a line ─► Request ─► Commands ─► output ─► send
//!        └──► the descriptors of one line at a time, for the line that asks for some; closed with a line that does not
//! ```
//!
//! While an answer waits to be sent, nothing more is read: a client that does not read stops itself.

use super::Commands;
use super::protocol::{MAX_FILES, MAX_LINE, Outcome, Request};
use crate::event_loop::EventLoop;
use crate::vcpu::exit::ExitReason;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Commands that one client may have done before others have their turn.
const COMMANDS_PER_TURN: usize = 4;

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// The client has to do something first.
    Waits,
    /// There are further lines, which no event will tell of.
    More,
    /// The connection is over.
    Over,
    /// So is the machine.
    Ended(ExitReason),
}

/// A client.
pub struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// No more is read: the client has said all, or something that cannot be put right.
    finished: bool,
}

impl Connection {
    /// A client at the other end of `socket`, which does not block.
    pub fn new(socket: OwnedFd) -> Self {
        Connection { socket, input: Vec::new(), output: Vec::new(), descriptors: Vec::new(), finished: false }
    }

    /// The socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether an answer waits for room.
    pub fn is_full(&self) -> bool {
        !self.output.is_empty()
    }

    /// Does what can be done now.
    pub fn turn(&mut self, events: &mut EventLoop, commands: &mut dyn Commands) -> Turn {
        for _ in 0..COMMANDS_PER_TURN {
            if !self.flush() {
                return Turn::Over;
            }
            if self.is_full() {
                return Turn::Waits;
            }
            let Some(line) = self.line() else {
                match self.receive() {
                    Received::Something => continue,
                    Received::Nothing => return Turn::Waits,
                    Received::Over => return Turn::Over,
                }
            };
            let ended = self.answer(&line, events, commands);
            if let Some(reason) = ended {
                // What does not fit at once is lost with the machine.
                self.flush();
                return Turn::Ended(reason);
            }
        }
        Turn::More
    }

    /// The next line, without its end.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.input.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    fn answer(
        &mut self,
        line: &[u8],
        events: &mut EventLoop,
        commands: &mut dyn Commands,
    ) -> Option<ExitReason> {
        let request = Request::parse(line);
        let wanted = request.as_ref().map_or(0, Request::files);
        // What came with other lines stays for the line that it was sent with, if that is still to come.
        let take = wanted > 0 || self.input.is_empty();
        let files = if take { std::mem::take(&mut self.descriptors) } else { Vec::new() };
        let (outcome, ended) = match request {
            Err(error) => (Outcome::Error(error.to_string()), None),
            Ok(request) if wanted != files.len() => {
                let reason = match (wanted, files.len()) {
                    (0, _) => "it takes no descriptor".to_string(),
                    (_, 0) => "the opened file is missing; send its descriptor with the line (SCM_RIGHTS)"
                        .to_string(),
                    (_, given) => format!("it takes {wanted} descriptor(s) and got {given}"),
                };
                (Outcome::Error(format!("{}: {reason}", request.name())), None)
            }
            Ok(request) => commands.run(events, request, files),
        };
        self.output.extend(outcome.to_line());
        ended
    }

    /// Sends what it can; `false` when the client has gone.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads what fits.
    fn receive(&mut self) -> Received {
        if self.finished {
            return Received::Over;
        }
        if self.input.len() >= MAX_LINE {
            return self.refuse(&format!("a line has at most {MAX_LINE} bytes"));
        }
        let mut bytes = [0; 4096];
        let room = bytes.len().min(MAX_LINE - self.input.len());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes[..room])], &mut control, flags);
        let message = match received {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
            Err(_) => return Received::Over,
        };
        let files: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            })
            .flatten()
            .collect();
        let mixed = !files.is_empty() && !self.descriptors.is_empty();
        // The alignment of the control message may leave room for one more than was asked for.
        if mixed || files.len() > MAX_FILES || message.flags.contains(ReturnFlags::CTRUNC) {
            return self.refuse(&format!(
                "the descriptors of one line at a time, with the line that they belong to, and at most {MAX_FILES}"
            ));
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return self
                .refuse(&format!("a packet is longer than what is left of a line of {MAX_LINE} bytes"));
        }
        self.descriptors.extend(files);
        if message.bytes == 0 {
            return Received::Over;
        }
        self.input.extend_from_slice(&bytes[..message.bytes]);
        Received::Something
    }

    /// The client has lost track: tells it why, and hangs up when it knows.
    fn refuse(&mut self, reason: &str) -> Received {
        self.finished = true;
        self.descriptors.clear();
        self.input.clear();
        self.output.extend(Outcome::Error(reason.to_string()).to_line());
        Received::Something
    }
}

enum Received {
    Something,
    Nothing,
    Over,
}
