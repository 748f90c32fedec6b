//! The client's side, for `clear-vmm ctl`. Waits, but not for ever.

use super::protocol::{MAX_FILES, Outcome, Request};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the machine may take for one command: longer than it waits for anything itself.
const LIMIT: Duration = Duration::from_secs(30);

/// Longest answer in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// A command that was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("connecting to {}: {source}; is a machine running with `--control` and this path?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{command}: talking to the machine: {source}")]
    Io {
        /// What was asked.
        command: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No answer.
    #[error("{command}: the machine did not answer within {} s", LIMIT.as_secs())]
    Timeout {
        /// What was asked.
        command: &'static str,
    },
    /// The machine has ended before it answered.
    #[error("{0}: the machine has hung up without an answer")]
    HungUp(&'static str),
    /// The answer is none.
    #[error("{command}: {reason}")]
    Nonsense {
        /// What was asked.
        command: &'static str,
        /// Why.
        reason: String,
    },
    /// It said no, in these words.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a machine.
#[derive(Debug)]
pub struct Client(UnixStream);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens at `path`, or who does may not be talked to.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_path_buf(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(LIMIT)).and(stream.set_write_timeout(Some(LIMIT))).map_err(failed)?;
        Ok(Client(stream))
    }

    /// Has a command done.
    ///
    /// # Errors
    /// When it was not, or nobody knows.
    pub fn call(&mut self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Value, ClientError> {
        let command = request.name();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout { command },
            _ => ClientError::Io { command, source },
        };
        self.send(&request.to_line(), files).map_err(failed)?;
        let mut answer = Vec::new();
        let mut byte = [0; 4096];
        while !answer.ends_with(b"\n") && (answer.len() as u64) < MAX_ANSWER {
            match self.0.read(&mut byte).map_err(failed)? {
                0 => return Err(ClientError::HungUp(command)),
                count => answer.extend_from_slice(&byte[..count]),
            }
        }
        match Outcome::parse(&answer) {
            Ok(Outcome::Ok(value)) => Ok(value),
            Ok(Outcome::Error(reason)) => Err(ClientError::Refused(reason)),
            Err(reason) => Err(ClientError::Nonsense { command, reason }),
        }
    }

    /// The descriptors go with the first byte.
    fn send(&mut self, line: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(files));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
        io::Write::write_all(&mut self.0, &line[sent..])
    }
}
