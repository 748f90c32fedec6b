//! A command's connection to a keeper.

use crate::keeper::protocol::{GREETING, MAX_FRAME, Reply, Request};
use crate::state::{StateDir, StateError};
use guest_protocol::frame::{self, Decoder};
use guest_protocol::message::ErrorKind;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The container's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The keeper is gone.
    #[error("container not running")]
    NotRunning,
    /// The connection broke.
    #[error("talking to the container's keeper: {0}")]
    Io(#[source] io::Error),
    /// The keeper or the guest said no.
    #[error("{message}")]
    Refused {
        /// For programs.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
    /// The keeper answered with something else.
    #[error(
        "the container's keeper gave an answer of another kind; are `cor` and the keeper of the same version?"
    )]
    Mismatch,
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
}

impl Client {
    /// Connects to the keeper of a container, handing over `stdio` (for an exec).
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when there is no keeper.
    pub fn connect(dir: &StateDir, stdio: &[BorrowedFd<'_>]) -> Result<Self, ClientError> {
        let (_open, path) = dir.short_path("keeper.sock").map_err(|_| ClientError::NotRunning)?;
        let address = SocketAddrUnix::new(&path).map_err(|e| ClientError::Io(e.into()))?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| ClientError::Io(e.into()))?;
        connect(&socket, &address).map_err(|_| ClientError::NotRunning)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !stdio.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(stdio));
        }
        sendmsg(&socket, &[IoSlice::new(&[GREETING])], &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(|e| ClientError::Io(e.into()))?;
        Ok(Client { stream: socket.into(), decoder: Decoder::new(MAX_FRAME) })
    }

    /// Sends a request without waiting.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let bytes = frame::encode(request, MAX_FRAME).map_err(|e| ClientError::Io(io::Error::other(e)))?;
        self.stream.write_all(&bytes).map_err(|_| ClientError::NotRunning)
    }

    /// The next reply.
    ///
    /// # Errors
    /// When the keeper goes away or says no.
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(reply) = self.buffered()? {
                return Ok(reply);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::NotRunning),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(ClientError::NotRunning),
                Err(e) => return Err(ClientError::Io(e)),
            }
        }
    }

    /// Reads what is there; for use in a poll loop.
    ///
    /// # Errors
    /// When the keeper goes away or says no.
    pub fn receive_ready(&mut self) -> Result<Option<Reply>, ClientError> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ClientError::NotRunning),
            Ok(count) => {
                self.decoder.push(&buffer[..count]);
                self.buffered()
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(_) => Err(ClientError::NotRunning),
        }
    }

    /// The next reply among those that were read already; poll(2) does not tell of them.
    ///
    /// # Errors
    /// When the keeper says no, or something that is no reply.
    pub fn buffered(&mut self) -> Result<Option<Reply>, ClientError> {
        match self.decoder.next::<Reply>().map_err(|e| ClientError::Io(io::Error::other(e)))? {
            Some(Reply::Failed { kind, message }) => Err(ClientError::Refused { kind, message }),
            other => Ok(other),
        }
    }

    /// Sends a request and waits for its answer at most `deadline`. The keeper bounds its own waits for the guest; this
    /// one bounds a keeper that is stopped.
    ///
    /// # Errors
    /// When the keeper goes away, says no, or does not answer in time.
    pub fn ask(&mut self, request: &Request, deadline: Option<Duration>) -> Result<Reply, ClientError> {
        self.stream.set_read_timeout(deadline).map_err(ClientError::Io)?;
        self.send(request)?;
        match self.receive() {
            Err(ClientError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                let seconds = deadline.unwrap_or_default().as_secs();
                Err(ClientError::Io(io::Error::other(format!("it did not answer within {seconds} s"))))
            }
            other => other,
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Asks the keeper of a container one thing.
///
/// # Errors
/// As [`Client::ask`].
pub fn ask(dir: &StateDir, request: &Request) -> Result<Reply, ClientError> {
    let deadline = match request {
        // Hooks in the guest may take as long as they like.
        Request::Start => None,
        _ => Some(Duration::from_secs(90)),
    };
    Client::connect(dir, &[])?.ask(request, deadline)
}

/// Asks the keeper for something that has no result.
///
/// # Errors
/// As [`Client::ask`].
pub fn command(dir: &StateDir, request: &Request) -> Result<(), ClientError> {
    match ask(dir, request)? {
        Reply::Done => Ok(()),
        _ => Err(ClientError::Mismatch),
    }
}
