//! A container in the foreground: created, started, watched and deleted by one process.
//!
//! ```text
//!   without terminal: the keeper has this process's fds 0-2 itself; signals are passed on to it
//!   with terminal:    user's terminal (raw) ◄─relay─► master ─ slave ─ keeper
//! ```

use crate::lifecycle::{self, Create, LifecycleError};
use crate::relay::Relay;
use crate::signals::SignalFd;
use crate::terminal::{self, RawMode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use rustix::stdio::{stdin, stdout};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Creates and starts a container, waits for its end, and deletes it unless `keep`. Returns the program's exit code and
/// sentences about what went wrong after it.
///
/// # Errors
/// When it cannot be created or started; then nothing is left.
pub fn foreground(mut create: Create<'_>, keep: bool) -> Result<(u8, Vec<String>), LifecycleError> {
    let failed = |source| LifecycleError::Io { doing: "preparing the terminal".into(), source };
    let dir = create.dir.clone();
    let signals = SignalFd::new(&[libc::SIGWINCH]).map_err(failed)?;
    let mut receiver = None;
    if create.plan.terminal && create.console.is_none() {
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        create.console = Some(theirs.into());
        receiver = Some(ours);
    }
    let pid = lifecycle::create(create)?;
    let result = receiver
        .map(|socket| Terminal::attach(&socket).map_err(failed))
        .transpose()
        .and_then(|terminal| lifecycle::start(&dir).map(|()| watch(pid, &signals, terminal)));
    let result = match result {
        Ok(code) => {
            code.map_err(|source| LifecycleError::Io { doing: "waiting for the container".into(), source })
        }
        Err(error) => Err(error),
    };
    if keep && result.is_ok() {
        return result.map(|code| (code, Vec::new()));
    }
    let deleted = lifecycle::delete(&dir, true);
    reap(pid);
    let code = result?;
    Ok((code, deleted.unwrap_or_else(|e| vec![e.to_string()])))
}

/// The user's terminal, connected with the container's.
struct Terminal {
    master: OwnedFd,
    input: Relay,
    output: Relay,
    _raw: RawMode,
}

impl Terminal {
    fn attach(socket: &UnixStream) -> io::Result<Self> {
        let master = receive_fd(socket)?;
        if let Some(size) = terminal::size(stdin()) {
            terminal::set_size(master.as_fd(), size);
        }
        let raw = RawMode::enter(stdin())?;
        let input = Relay::new(stdin().try_clone_to_owned()?, master.try_clone()?);
        let output = Relay::new(master.try_clone()?, stdout().try_clone_to_owned()?);
        Ok(Terminal { master, input, output, _raw: raw })
    }
}

/// The descriptor that comes over a console socket.
fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fds = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.ok_or_else(|| io::Error::other("no terminal came over the console socket"))
}

/// Passes signals, sizes and bytes until the keeper has ended; returns its exit code.
fn watch(pid: u32, signals: &SignalFd, mut terminal: Option<Terminal>) -> io::Result<u8> {
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidInput)?;
    let keeper = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let (ended, signalled, input, output) = wait(&keeper, signals, terminal.as_ref());
        while let Some(signal) = signalled.then(|| signals.next()).flatten() {
            match (&terminal, signal) {
                (Some(terminal), libc::SIGWINCH) => {
                    if let Some(size) = terminal::size(stdin()) {
                        terminal::set_size(terminal.master.as_fd(), size);
                    }
                }
                (None, libc::SIGWINCH) => {}
                _ => {
                    if let Some(signal) = Signal::from_named_raw(signal) {
                        let _ = pidfd_send_signal(&keeper, signal);
                    }
                }
            }
        }
        if let Some(terminal) = &mut terminal {
            if input {
                terminal.input.step();
            }
            if output {
                terminal.output.step();
            }
        }
        if ended {
            if let Some(terminal) = &mut terminal {
                terminal.output.flush();
            }
            let status = waitpid(Some(pid), WaitOptions::empty())?.map(|(_, status)| status);
            let by_signal = status.and_then(|s| s.terminating_signal()).map(|signal| 128 + signal);
            return Ok(by_signal.or(status.and_then(|s| s.exit_status())).unwrap_or(255) as u8);
        }
    }
}

/// What is ready: the keeper's end, a signal, terminal input, terminal output.
fn wait(keeper: &OwnedFd, signals: &SignalFd, terminal: Option<&Terminal>) -> (bool, bool, bool, bool) {
    let mut fds = vec![PollFd::new(keeper, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    let input = terminal.and_then(|t| t.input.interest()).map(|fd| fds.push(fd)).map(|()| fds.len() - 1);
    let output = terminal.and_then(|t| t.output.interest()).map(|fd| fds.push(fd)).map(|()| fds.len() - 1);
    // EINTR: nothing is ready, the loop comes again.
    let _ = poll(&mut fds, None);
    let is = |index: usize| !fds[index].revents().is_empty();
    (is(0), is(1), input.is_some_and(is), output.is_some_and(is))
}

/// Takes the exit status of a keeper that was ended by `delete`.
fn reap(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}
