//! Terminals on the host: the pair that a container's terminal is carried over, and its way to the engine.
//!
//! ```text
//!   engine or `cor run` ◄── master, by SCM_RIGHTS ── keeper or exec stand-in: slave, raw ◄──► agent: the real terminal
//! ```
//!
//! The slave is raw: the guest's terminal does the line editing. A new size of the master reaches the slave's
//! process as SIGWINCH, because the slave is its controlling terminal.

use guest_protocol::message::TerminalSize;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self, OptionalActions, Termios, Winsize};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Puts /dev/null at the standard files: whoever waits for the end of what this process was given there shall not wait for this process.
///
/// # Errors
/// When /dev/null cannot be opened.
pub fn leave_stdio() -> io::Result<()> {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// Opens a pair, makes the slave raw, and sends the master over `socket` with its name as payload.
/// Returns the slave.
///
/// # Errors
/// When the pair cannot be made or the peer is gone.
pub fn open_for(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave =
        rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let mut attributes = termios::tcgetattr(&slave)?;
    attributes.make_raw();
    termios::tcsetattr(&slave, OptionalActions::Now, &attributes)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(name.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(slave)
}

/// Connects to an engine's console socket.
///
/// # Errors
/// When nobody listens there.
pub fn connect_console(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Makes `terminal` the controlling terminal of this process, in a new session.
///
/// # Errors
/// When it is another session's.
pub fn control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // EPERM: this process leads a session already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::ioctl_tiocsctty(terminal)?;
    Ok(())
}

/// Size of a terminal, `None` when it has none.
pub fn size(terminal: BorrowedFd<'_>) -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of a terminal.
pub fn set_size(terminal: BorrowedFd<'_>, size: TerminalSize) {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal without a size is still a terminal.
    let _ = termios::tcsetwinsize(terminal, size);
}

/// The user's terminal in raw mode; restored on drop.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Makes `terminal` raw.
    ///
    /// # Errors
    /// When it is no terminal.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        let before = termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(terminal, OptionalActions::Drain, &raw)?;
        Ok(RawMode { terminal: terminal.try_clone_to_owned()?, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Sends a pidfd of process `pid` to an engine's socket.
///
/// # Errors
/// When the process or the peer is gone.
pub fn send_pidfd(path: &Path, pid: u32) -> io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let socket = connect_console(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [pidfd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&socket, &[IoSlice::new(b"pidfd")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
