//! What a container's process tells the agent before its program runs, and the agent's two words to it.
//!
//! ```text
//!   child ── Terminal(fd) ──► agent      the new terminal's master
//!   child ◄──── GO ────────── agent      its user namespace has its maps
//!   child ── Ready ─────────► agent      set up; the program was found
//!   child ◄─── START ──────── agent
//!   child ── Executing ─────► agent      then the socket closes with execve(2) ...
//!   child ── Failed(error) ─► agent      ... or this came instead, at any point
//! ```
//!
//! A SOCK_SEQPACKET pair: a message is a packet, a death is the end of file.

use crate::error::{MAX_MESSAGE, cut};
use guest_protocol::message::{AgentError, ErrorKind};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// The maps of the user namespace are written.
pub const GO: u8 = b'G';
/// Execute the program.
pub const START: u8 = b'S';

/// A message of the child.
#[derive(Debug)]
pub enum Report {
    /// Master of the new terminal.
    Terminal(OwnedFd),
    /// Everything is done up to the point before execution.
    Ready,
    /// execve(2) comes next.
    Executing,
    /// It did not work; the child ends.
    Failed(AgentError),
}

/// Makes the two ends: the agent's (non-blocking) and the child's.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> rustix::io::Result<(AgentEnd, ChildEnd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((AgentEnd(ours), ChildEnd(theirs)))
}

/// The agent's end.
pub struct AgentEnd(OwnedFd);

/// The child's end.
pub struct ChildEnd(OwnedFd);

impl AsFd for AgentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AgentEnd {
    /// Says [`GO`] or [`START`].
    ///
    /// # Errors
    /// When the child is gone.
    pub fn tell(&self, word: u8) -> rustix::io::Result<()> {
        rustix::net::send(&self.0, &[word], SendFlags::NOSIGNAL).map(drop)
    }

    /// The child's next message, `None` when it has closed its end.
    ///
    /// # Errors
    /// EAGAIN when there is none; EPROTO when it makes no sense.
    pub fn receive(&self) -> rustix::io::Result<Option<Report>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; MAX_MESSAGE + 2];
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let count = recvmsg(&self.0, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let file = control.drain().find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match (&buffer[..count], file) {
            ([], _) => Ok(None),
            ([b'T'], Some(master)) => Ok(Some(Report::Terminal(master))),
            ([b'R'], None) => Ok(Some(Report::Ready)),
            ([b'X'], None) => Ok(Some(Report::Executing)),
            ([b'E', kind, message @ ..], None) => {
                let message = String::from_utf8_lossy(message).into_owned();
                Ok(Some(Report::Failed(AgentError { kind: kind_of(*kind), message })))
            }
            _ => Err(Errno::PROTO),
        }
    }
}

const KINDS: [ErrorKind; 6] = [
    ErrorKind::Failed,
    ErrorKind::CommandNotFound,
    ErrorKind::NotExecutable,
    ErrorKind::NotFound,
    ErrorKind::NotRunning,
    ErrorKind::Invalid,
];

fn kind_of(byte: u8) -> ErrorKind {
    KINDS.get(usize::from(byte)).copied().unwrap_or(ErrorKind::Failed)
}

impl ChildEnd {
    /// Sends the master of the new terminal.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn terminal(&self, master: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [master];
        control.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.0, &[IoSlice::new(b"T")], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// Says [`Report::Ready`].
    ///
    /// # Errors
    /// Those of send(2).
    pub fn ready(&self) -> rustix::io::Result<()> {
        rustix::net::send(&self.0, b"R", SendFlags::NOSIGNAL).map(drop)
    }

    /// Says [`Report::Executing`].
    ///
    /// # Errors
    /// Those of send(2).
    pub fn executing(&self) -> rustix::io::Result<()> {
        // write(2) rather than send(2): a system call filter that allows no sockets must not stop it.
        rustix::io::write(&self.0, b"X").map(drop)
    }

    /// Says [`Report::Failed`], as well as it can.
    pub fn failed(&self, error: &AgentError) {
        let kind = KINDS.iter().position(|k| *k == error.kind).unwrap_or(0);
        let mut packet = vec![b'E', kind as u8];
        packet.extend_from_slice(cut(&error.message, MAX_MESSAGE).as_bytes());
        let _ = rustix::io::write(&self.0, &packet);
    }

    /// Takes the agent's word, waiting for it; `None` when the agent is gone.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn word(&self) -> rustix::io::Result<Option<u8>> {
        let mut word = [0; 1];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut word))?;
        Ok((count == 1).then_some(word[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_arrive_as_they_were_sent() {
        let (agent, child) = pair().unwrap();
        assert_eq!(agent.receive().unwrap_err(), Errno::AGAIN);
        child.terminal(child.as_fd()).unwrap();
        child.ready().unwrap();
        child.executing().unwrap();
        child.failed(&AgentError::new(ErrorKind::NotExecutable, "x".repeat(10_000)));
        assert!(matches!(agent.receive(), Ok(Some(Report::Terminal(_)))));
        assert!(matches!(agent.receive(), Ok(Some(Report::Ready))));
        assert!(matches!(agent.receive(), Ok(Some(Report::Executing))));
        let Ok(Some(Report::Failed(error))) = agent.receive() else { panic!() };
        assert_eq!((error.kind, error.message.len()), (ErrorKind::NotExecutable, MAX_MESSAGE));
        agent.tell(START).unwrap();
        assert_eq!(child.word(), Ok(Some(START)));
        drop(child);
        assert!(matches!(agent.receive(), Ok(None)));
    }
}
