//! One more process in a container, and the host process that stands for it.
//!
//! ```text
//!   cor exec ──(detached: fork)──► stand-in: its pid goes into the pid file, it holds the exec's fds 0-2, sits in the
//!                                  container's control group, and exits with the process's exit code
//!      fds 0-2 ◄─relay─► socket pairs ◄─ keeper ─► streams of the agent
//! ```
//!
//! A signal to the stand-in goes to the process; SIGKILL closes its connection, upon which the keeper kills the process.

use crate::client::{Client, ClientError};
use crate::host::cgroup;
use crate::keeper::protocol::{Reply, Request};
use crate::lifecycle::{LifecycleError, read_plan, write_pid_file};
use crate::plan::HostStep;
use crate::relay::Relay;
use crate::signals::{self, SignalFd};
use crate::state::{StateDir, Status};
use crate::terminal::{self, RawMode};
use guest_protocol::message::{ExitStatus, Process, TerminalSize};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::stdio::{stderr, stdin, stdout};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// How long the keeper and the guest may take to start a process.
const START: Duration = Duration::from_secs(90);

/// What is to be run.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container.
    pub dir: StateDir,
    /// The process.
    pub process: Process,
    /// Return as soon as it runs.
    pub detach: bool,
    /// Connected socket that gets the terminal's master.
    pub console: Option<OwnedFd>,
    /// File for the stand-in's pid.
    pub pid_file: Option<&'a Path>,
}

/// Runs a process; returns its exit code, or 0 as soon as it runs when detached.
///
/// # Errors
/// When the container is in the wrong state or the process cannot be executed.
pub fn exec(exec: Exec<'_>) -> Result<u8, LifecycleError> {
    let container = exec.dir.load()?;
    let refused = |hint| LifecycleError::WrongState {
        operation: "exec in",
        id: container.file.id.clone(),
        status: container.status(),
        hint,
    };
    match container.status() {
        Status::Created | Status::Running => {}
        Status::Paused => return Err(refused("; resume it first")),
        Status::Stopped => return Err(refused("; start a new one")),
        Status::Creating => return Err(refused("; wait until `create` has ended")),
    }
    if !exec.detach {
        if let Some(path) = exec.pid_file {
            write_pid_file(path, std::process::id())?;
        }
        let running = StandIn::start(exec)?;
        return Ok(running.run().code());
    }
    detached(exec)
}

/// Forks the stand-in and waits until its process runs.
fn detached(exec: Exec<'_>) -> Result<u8, LifecycleError> {
    let failed = |source| LifecycleError::Io { doing: "starting the exec's stand-in".into(), source };
    let (mut verdict, tell) = io::pipe().map_err(failed)?;
    let has_terminal = exec.console.is_some();
    let Some(pid) = signals::fork().map_err(failed)? else {
        drop(verdict);
        let _ = rustix::process::setsid();
        let code = match StandIn::start(exec) {
            Ok(running) => {
                let mut tell = tell;
                if has_terminal {
                    // containerd's shim waits for the end of this command's output before it takes the terminal.
                    let _ = terminal::leave_stdio();
                }
                // The parent may have been killed; the process runs all the same.
                let _ = tell.write_all(b"+");
                drop(tell);
                running.run().code()
            }
            Err(error) => {
                let mut tell = tell;
                let _ = tell.write_all(error.to_string().as_bytes());
                1
            }
        };
        std::process::exit(i32::from(code));
    };
    drop(tell);
    let mut words = String::new();
    verdict.read_to_string(&mut words).map_err(failed)?;
    match words.as_str() {
        "+" => exec.pid_file.map_or(Ok(0), |path| write_pid_file(path, pid).map(|()| 0)),
        "" => Err(failed(io::Error::other("it ended without a word"))),
        words => Err(LifecycleError::Create { phase: "exec failed".into(), message: words.to_string() }),
    }
}

/// This process as it stands for a running one.
struct StandIn {
    client: Client,
    signals: SignalFd,
    input: Relay,
    outputs: Vec<Relay>,
    /// Where sizes come from.
    terminal: Option<OwnedFd>,
    _raw: Option<RawMode>,
}

impl StandIn {
    /// Connects everything and has the process executed.
    fn start(exec: Exec<'_>) -> Result<Self, LifecycleError> {
        let Exec { dir, mut process, console, .. } = exec;
        let failed = |source| LifecycleError::Io { doing: "preparing the exec".into(), source };
        let signals = SignalFd::new(&[libc::SIGWINCH]).map_err(failed)?;
        join_cgroup(&dir)?;
        let wants_terminal = process.terminal.is_some();
        let (ends, terminal, raw) = match (wants_terminal, console) {
            (true, Some(socket)) => {
                let slave = terminal::open_for(socket.as_fd()).map_err(failed)?;
                if let Some(size @ TerminalSize { rows: 1.., columns: 1.. }) = process.terminal {
                    terminal::set_size(slave.as_fd(), size);
                }
                terminal::control(slave.as_fd()).map_err(failed)?;
                let copy = || slave.try_clone().map_err(failed);
                (vec![copy()?, copy()?], Some(slave), None)
            }
            (true, None) => {
                let raw = RawMode::enter(stdin()).map_err(failed)?;
                let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(failed);
                (vec![copy(stdin())?, copy(stdout())?], Some(copy(stdin())?), Some(raw))
            }
            (false, _) => {
                let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(failed);
                (vec![copy(stdin())?, copy(stdout())?, copy(stderr())?], None, None)
            }
        };
        if let Some(size) = terminal.as_ref().and_then(|t| terminal::size(t.as_fd())) {
            process.terminal = Some(size);
        }
        let (mut relays, theirs) = relays(ends).map_err(failed)?;
        let borrowed: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let mut client = Client::connect(&dir, &borrowed)?;
        drop(theirs);
        let request = Request::Exec { process: Box::new(process), ignore_paused: false };
        match client.ask(&request, Some(START))? {
            Reply::Executed { .. } => {}
            _ => return Err(ClientError::Mismatch.into()),
        }
        let input = relays.remove(0);
        Ok(StandIn { client, signals, input, outputs: relays, terminal, _raw: raw })
    }

    /// Relays until the process has ended and its output is delivered.
    fn run(mut self) -> ExitStatus {
        // The end may have come in one piece with the answer to the request.
        let mut arrived = self.client.buffered();
        loop {
            if let Some(status) = self.end(arrived) {
                self.outputs.iter_mut().for_each(Relay::flush);
                return status;
            }
            let ready = self.wait();
            if ready.signals {
                self.forward_signals();
            }
            if ready.input {
                self.input.step();
            }
            for index in ready.outputs {
                self.outputs[index].step();
            }
            arrived = if ready.client { self.client.receive_ready() } else { Ok(None) };
        }
    }

    /// The exit status, if it is among the replies that have arrived, of which `reply` is the first.
    fn end(&mut self, mut reply: Result<Option<Reply>, ClientError>) -> Option<ExitStatus> {
        loop {
            match reply {
                Ok(Some(Reply::Exited(status))) => return Some(status),
                Ok(None) => return None,
                // An answer to a signal; a refusal when the process has just ended.
                Ok(Some(_)) | Err(ClientError::Refused { .. }) => reply = self.client.buffered(),
                // The keeper is gone, and with it the machine.
                Err(_) => return Some(ExitStatus::Signal(libc::SIGKILL as u8)),
            }
        }
    }

    fn wait(&self) -> Ready {
        let mut fds =
            vec![PollFd::new(&self.client, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let mut whose = Vec::new();
        for (index, relay) in std::iter::once(&self.input).chain(&self.outputs).enumerate() {
            if let Some(interest) = relay.interest() {
                whose.push(index);
                fds.push(interest);
            }
        }
        // EINTR: nothing is ready, the loop comes again.
        let _ = poll(&mut fds, None);
        let is = |index: usize| !fds[index].revents().is_empty();
        let relays: Vec<usize> =
            whose.iter().enumerate().filter(|(at, _)| is(at + 2)).map(|(_, w)| *w).collect();
        Ready {
            client: is(0),
            signals: is(1),
            input: relays.contains(&0),
            outputs: relays.iter().filter(|w| **w > 0).map(|w| w - 1).collect(),
        }
    }

    fn forward_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            let request = match (signal, &self.terminal) {
                (libc::SIGWINCH, Some(terminal)) => match terminal::size(terminal.as_fd()) {
                    Some(size) => Request::Resize(size),
                    None => continue,
                },
                (libc::SIGWINCH, None) => continue,
                (signal, _) => Request::KillExec { signal },
            };
            // A keeper that is gone shows at its descriptor.
            let _ = self.client.send(&request);
        }
    }
}

struct Ready {
    client: bool,
    signals: bool,
    input: bool,
    outputs: Vec<usize>,
}

/// For each descriptor (the first an input, the others outputs) a relay on this side and a socket for the keeper.
fn relays(ends: Vec<OwnedFd>) -> io::Result<(Vec<Relay>, Vec<OwnedFd>)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let mut relays = Vec::new();
    let mut theirs = Vec::new();
    for (index, end) in ends.into_iter().enumerate() {
        let (ours, their) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        relays.push(if index == 0 { Relay::new(end, ours) } else { Relay::new(ours, end) });
        theirs.push(their);
    }
    Ok((relays, theirs))
}

/// Moves this process into the container's control group on the host.
fn join_cgroup(dir: &StateDir) -> Result<(), LifecycleError> {
    let plan = read_plan(dir)?;
    let cgroups = host_check::cgroups(&host_check::Root::host());
    for step in &plan.host {
        if let HostStep::Cgroup { path, .. } = step {
            cgroup::join(&cgroups, path)?;
        }
    }
    Ok(())
}
