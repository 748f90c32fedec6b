//! The keeper's poll loop, from a booting guest to the end of its VMM.

use super::agent_client::{AgentClient, FromGuest};
use super::control::{ConnectionId, Control};
use super::face::Face;
use super::names::Names;
use super::network::Network;
use super::protocol::{Progress, Reply};
use super::pump::{self, Direction, Pump};
use super::tail::Tail;
use super::timeline::Timeline;
use super::{Failed, Reporter, out_of_memory, remember, write_state};
use crate::history::Failure;
use crate::plan::{self, SandboxPlan};
use crate::signals::SignalFd;
use crate::state::{StateDir, StateFile, Status};
use crate::terminal;
use guest_protocol::message::{
    self, AgentError, ErrorKind, Event, ExitStatus, INIT_PROCESS, RequestBody, Step,
};
use guest_protocol::mux::StreamId;
use guest_protocol::names;
use host_check::facts::Cgroups;
use machine::Machine;
use machine_spec::Accelerator;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Exit code of a container whose machine was lost: as if its processes had been killed.
const LOST: u8 = 137;

/// How long the guest may take to write back its file systems, with hardware virtualization.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How long the output of a killed program waits for a reader that does not read.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Emulation is slower by about this factor.
const EMULATION_FACTOR: u32 = 4;

/// Where a stream of the agent leads, until the agent opens it.
#[derive(Debug)]
pub(super) struct Port {
    pub process_id: u32,
    pub direction: Direction,
    pub fd: OwnedFd,
}

/// Who waits for an answer of the agent.
#[derive(Debug)]
pub(super) enum Waiting {
    Setup,
    /// The interfaces that are there when the container is created.
    Interfaces,
    /// Those that have come until `start`; it goes on with the answer.
    Plugged(ConnectionId),
    /// Those that have come later.
    Replugged,
    /// The questions to a name server.
    Names,
    Start(ConnectionId),
    Exec(ConnectionId, u32),
    Command(ConnectionId),
    Nobody,
}

/// How far the container is; each phase holds what exists only in it.
#[derive(Debug)]
pub(super) enum Phase {
    /// The guest boots, hooks may run.
    Booting { hooks_done: bool, hello: bool, deadline: Instant },
    /// `Setup` was sent.
    SettingUp,
    /// The program waits for `start`, or runs.
    Alive,
    /// The program has ended, and with it all that were executed; their output is being delivered, theirs until `patience` is over.
    Draining { patience: Instant },
    /// The guest writes back its file systems.
    ShuttingDown { deadline: Instant },
    /// The VMM has ended, or is to be killed now.
    Over,
}

/// All that the keeper has.
pub(super) struct Keeper {
    pub dir: StateDir,
    pub face: Face,
    pub plan: SandboxPlan,
    pub state: StateFile,
    pub cgroups: Cgroups,
    /// What connects interfaces of the host with the machine, unless it is to have none.
    pub network: Option<Network>,
    pub names: Names,
    pub machine: Box<dyn Machine>,
    pub channel: UnixStream,
    pub agent: AgentClient<Waiting>,
    pub ports: BTreeMap<u32, Port>,
    pub pumps: Vec<Pump>,
    /// The stream of the container's error output (or terminal), once the agent has opened it.
    pub errors: Option<StreamId>,
    pub console: Option<UnixStream>,
    pub console_tail: Tail,
    pub log: Option<io::PipeReader>,
    pub log_tail: Tail,
    pub control: Control,
    pub signals: SignalFd,
    pub phase: Phase,
    pub next_process: u32,
    pub next_port: u32,
    /// Executed processes that have ended while their output is still being delivered.
    pub exec_ends: BTreeMap<u32, ExitStatus>,
    pub terminal: Option<OwnedFd>,
    pub exit: Option<ExitStatus>,
    pub failure: Option<Failed>,
    pub timeline: Timeline,
    pub paused: bool,
    /// When to give up on a reader of the killed program's output.
    pub patience: Option<Instant>,
}

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Channel,
    Vmm,
    Console,
    Log,
    Signals,
    Network,
    Names,
    Status,
    Listener,
    Connection(ConnectionId),
    Pump(StreamId),
}

impl Keeper {
    /// Runs to the end; returns the exit code.
    pub fn run(mut self, mut reporter: Reporter) -> u8 {
        loop {
            let ready = self.wait(&reporter);
            for (source, flags) in ready {
                self.handle(source, flags, &mut reporter);
            }
            self.run_pumps();
            self.names.turn(&mut self.agent.mux, Instant::now());
            self.write_channel();
            self.check_time();
            self.advance(&mut reporter);
            if matches!(self.phase, Phase::Over) {
                return self.end(&mut reporter);
            }
        }
    }

    /// Waits until something is ready or a deadline has come.
    fn wait(&self, reporter: &Reporter) -> Vec<(Source, PollFlags)> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Vmm, self.machine.exit_fd(), PollFlags::IN),
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
            (Source::Listener, self.control.listener(), PollFlags::IN),
        ];
        let out = if self.agent.mux.output().is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        // A guest that sends without reading is not heard until it reads.
        let more = if self.agent.mux.is_congested() { PollFlags::empty() } else { PollFlags::IN };
        sources.push((Source::Channel, self.channel.as_fd(), more | out));
        if let Some(console) = &self.console {
            sources.push((Source::Console, console.as_fd(), PollFlags::IN));
        }
        if let Some(log) = &self.log {
            sources.push((Source::Log, log.as_fd(), PollFlags::IN));
        }
        if let Some(network) = &self.network {
            sources.push((Source::Network, network.changes(), PollFlags::IN));
        }
        if let Some(status) = &reporter.status {
            sources.push((Source::Status, status.as_fd(), PollFlags::IN));
        }
        let names = self.names.interests(&self.agent.mux);
        sources.extend(names.map(|(fd, flags)| (Source::Names, fd, flags)));
        for (id, fd, unsent) in self.control.connections() {
            let out = if unsent { PollFlags::OUT } else { PollFlags::empty() };
            sources.push((Source::Connection(id), fd, PollFlags::IN | out));
        }
        for pump in self.pumps.iter().filter(|p| p.wants(&self.agent.mux)) {
            let flags = if pump.direction == Direction::ToGuest { PollFlags::IN } else { PollFlags::OUT };
            sources.push((Source::Pump(pump.stream), pump.fd(), flags));
        }
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.next_deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        // EINTR: nothing is ready, the loop comes again.
        let _ = poll(&mut fds, timeout.as_ref());
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((source, _, _), fd)| (*source, fd.revents())).collect()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let own = match self.phase {
            Phase::Booting { deadline, .. } | Phase::ShuttingDown { deadline } => Some(deadline),
            Phase::Draining { patience } if !self.has_output(INIT_PROCESS) => Some(patience),
            _ => self.patience,
        };
        let network = self.network.as_ref().filter(|_| self.follows_network()).and_then(Network::due);
        let names = self.names.next_deadline();
        own.into_iter().chain(network).chain(names).chain(self.agent.next_deadline()).min()
    }

    fn handle(&mut self, source: Source, flags: PollFlags, reporter: &mut Reporter) {
        match source {
            Source::Vmm => self.phase = Phase::Over,
            Source::Signals => self.forward_signals(),
            Source::Listener => self.control.accept(),
            Source::Connection(id) => self.connection(id, flags),
            Source::Channel => self.read_channel(reporter),
            Source::Console => {
                if !read_into(self.console.as_mut(), &mut self.console_tail) {
                    self.console = None;
                }
            }
            Source::Log => {
                if !read_into(self.log.as_mut(), &mut self.log_tail) {
                    self.log = None;
                }
            }
            Source::Network => self.network.iter_mut().for_each(Network::changed),
            // Their turn comes with everybody's.
            Source::Names => {}
            Source::Status => self.status(reporter),
            Source::Pump(stream) => self.run_pump(stream),
        }
    }

    /// `create` lets us go on, or is gone.
    fn status(&mut self, reporter: &mut Reporter) {
        let mut byte = [0];
        let count = reporter.status.as_mut().map_or(0, |s| s.read(&mut byte).unwrap_or(0));
        match &mut self.phase {
            Phase::Booting { hooks_done, .. } if count == 1 => *hooks_done = true,
            _ => {
                reporter.status = None;
                self.fail(
                    "creating the container",
                    "the command that created it was ended before it was complete",
                );
            }
        }
    }

    fn read_channel(&mut self, reporter: &mut Reporter) {
        if self.agent.mux.is_congested() {
            return;
        }
        let mut buffer = [0; 64 << 10];
        loop {
            let count = match self.channel.read(&mut buffer) {
                // The VMM has closed it: its end is seen at its pidfd.
                Ok(0) => return,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return,
            };
            match self.agent.receive(&buffer[..count]) {
                Ok(news) => {
                    for one in news {
                        self.heard(one, reporter);
                    }
                }
                Err(fault) => return self.fail("talking to the guest's agent", &fault.to_string()),
            }
            if count < buffer.len() {
                return;
            }
            self.run_pumps();
            self.write_channel();
            if self.agent.mux.is_congested() {
                return;
            }
        }
    }

    fn heard(&mut self, news: FromGuest<Waiting>, reporter: &mut Reporter) {
        match news {
            FromGuest::Hello(hello) => {
                self.timeline.guest(&hello.stamps);
                self.timeline.stamp("agent called");
                if let Phase::Booting { hello, .. } = &mut self.phase {
                    *hello = true;
                }
            }
            FromGuest::Answer(who, result) => self.answer(who, result, reporter),
            FromGuest::Event(event) => self.event(event),
            FromGuest::Opened(stream, port) => self.opened(stream, port),
            FromGuest::ControlClosed if matches!(self.phase, Phase::ShuttingDown { .. }) => {
                self.phase = Phase::Over
            }
            FromGuest::ControlClosed => {
                self.fail("talking to the guest's agent", "the agent closed its control stream")
            }
        }
    }

    /// The agent opens a stream to a name server, or to a port that was given to a process; any other port does not exist.
    fn opened(&mut self, stream: StreamId, port: u32) {
        if let names::DATAGRAM_PORT | names::STREAM_PORT = port {
            let datagrams = port == names::DATAGRAM_PORT;
            return self.names.open(&mut self.agent.mux, stream, datagrams, Instant::now());
        }
        let Some(Port { process_id, direction, fd }) = self.ports.remove(&port) else {
            return self.agent.mux.reset(stream);
        };
        if direction == Direction::FromGuest {
            self.agent.mux.finish(stream);
        }
        let last_output =
            if self.terminal.is_some() { plan::INIT_STDOUT_PORT } else { plan::INIT_STDERR_PORT };
        if port == last_output {
            self.errors = Some(stream);
        }
        self.pumps.push(Pump::new(stream, process_id, direction, fd));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Exited { process_id: INIT_PROCESS, status, oom_killed, .. } => {
                self.timeline.stamp("program ended");
                self.exit = Some(status);
                if oom_killed {
                    self.note_out_of_memory();
                }
                self.ports.retain(|_, port| port.process_id != INIT_PROCESS);
                self.phase = Phase::Draining { patience: Instant::now() + PATIENCE };
            }
            Event::Exited { process_id, status, .. } => {
                self.ports.retain(|_, port| port.process_id != process_id);
                self.exec_ends.insert(process_id, status);
            }
            Event::OutOfMemory { .. } => {
                self.note_out_of_memory();
                self.set_status(self.state.status);
            }
            Event::Warning(text) => self.console_tail.push(format!("agent: {text}\n").as_bytes()),
        }
    }

    /// The guest's kernel has killed a process of the container for lack of memory. Podman and CRI-O look for the file that conmon makes
    /// when the host's control group shows it, which it does after the machine's end only (`out_of_memory.rs`).
    fn note_out_of_memory(&mut self) {
        self.state.oom_killed = true;
        let manager = self.plan.annotations.get("io.container.manager").map(String::as_str);
        if matches!(manager, Some("libpod" | "cri-o")) {
            let _ = std::fs::File::create(self.plan.bundle.join("oom"));
        }
    }

    /// Moves to the next phase when everything for it is there.
    fn advance(&mut self, reporter: &mut Reporter) {
        self.deliver_exec_ends();
        match self.phase {
            Phase::Booting { hooks_done: true, hello: true, .. } => self.send_setup(),
            Phase::Draining { patience }
                if !self.has_output(INIT_PROCESS)
                    && (!self.control.has_processes() || patience <= Instant::now()) =>
            {
                reporter.status = None;
                self.timeline.stamp("output delivered");
                let factor = if self.plan.machine.accelerator == Accelerator::Emulation {
                    EMULATION_FACTOR
                } else {
                    1
                };
                let deadline = Instant::now() + SHUTDOWN * factor;
                let sent = self.agent.request(RequestBody::Shutdown, Waiting::Nobody, SHUTDOWN * factor);
                self.phase = if sent.is_ok() { Phase::ShuttingDown { deadline } } else { Phase::Over };
                self.write_channel();
            }
            _ => {}
        }
    }

    /// Whether output of a process is still on its way.
    fn has_output(&self, process_id: u32) -> bool {
        self.pumps.iter().any(|p| p.process_id == process_id && p.direction == Direction::FromGuest)
    }

    /// Tells commands about their ended processes, once the output that was there has been delivered.
    fn deliver_exec_ends(&mut self) {
        let mux = &self.agent.mux;
        let busy = |id: u32| {
            let mut of_it =
                self.pumps.iter().filter(|p| p.process_id == id && p.direction == Direction::FromGuest);
            of_it.any(|p| !mux.pending(p.stream).is_empty())
        };
        let done: Vec<u32> = self.exec_ends.keys().copied().filter(|id| !busy(*id)).collect();
        for id in done {
            let Some(status) = self.exec_ends.remove(&id) else { continue };
            if let Some(connection) = self.control.of_process(id) {
                self.control.reply(connection, &Reply::Exited(status));
                if let Some(c) = self.control.get(connection) {
                    c.process_id = None;
                }
            }
        }
    }

    fn send_setup(&mut self) {
        if !self.send_interfaces() {
            return;
        }
        self.phase = Phase::SettingUp;
        let mut setup = self.plan.guest.clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        setup.wall_clock_ns = now.as_nanos() as u64;
        setup.entropy = crate::entropy::<64>().to_vec();
        let size = self.terminal.as_ref().and_then(|t| terminal::size(t.as_fd()));
        let state = self.hook_state("created");
        for step in &mut setup.steps {
            match step {
                Step::Process(process) if process.terminal.is_some() && size.is_some() => {
                    process.terminal = size
                }
                Step::CreateHook(hook) | Step::StartHook(hook) => hook.state.clone_from(&state),
                _ => {}
            }
        }
        self.timeline.stamp("set-up sent");
        // Hooks in the guest have deadlines of their own, if any.
        let deadline = Duration::from_secs(u64::from(self.plan.boot_timeout_s)) + self.guest_hook_time();
        if let Err((_, reason)) =
            self.agent.request(RequestBody::Setup(Box::new(setup)), Waiting::Setup, deadline)
        {
            self.fail("setting up the container", &reason);
        }
    }

    fn guest_hook_time(&self) -> Duration {
        let seconds = |step: &Step| match step {
            Step::CreateHook(hook) | Step::StartHook(hook) => u64::from(hook.timeout_s.unwrap_or(3600)),
            _ => 0,
        };
        Duration::from_secs(self.plan.guest.steps.iter().map(seconds).sum())
    }

    /// State JSON for a hook in the guest.
    fn hook_state(&self, status: &str) -> String {
        crate::lifecycle::hook_state(&self.state, status)
    }

    /// The answer to `Setup`.
    pub(super) fn set_up(&mut self, result: Result<message::Reply, AgentError>, reporter: &mut Reporter) {
        match result {
            Ok(_) => {
                self.timeline.stamp("created");
                self.phase = Phase::Alive;
                // Now: the guest has made the places of the mounts.
                let processes = [Some(self.state.pid), self.state.vmm_pid].into_iter().flatten().collect();
                if let Err(error) = self.face.show_files(&self.plan, &self.dir.stage(), processes) {
                    return self.fail("showing the container's files", &error.to_string());
                }
                self.state.status = Status::Created;
                if let Err(failed) = write_state(&self.dir, &self.state) {
                    return self.fail(failed.phase, &failed.message);
                }
                remember(&self.dir, &self.timeline, None);
                reporter.tell(&Progress::Created);
                reporter.status = None;
            }
            Err(error) => self.fail("setting up the container", &error.message),
        }
    }

    fn check_time(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Booting { deadline, hello, .. } if deadline <= now && !hello => {
                let seconds = self.plan.boot_timeout_s;
                self.fail(
                    "waiting for the guest to boot",
                    &format!("its agent did not call within {seconds} s"),
                );
            }
            Phase::ShuttingDown { deadline } if deadline <= now => self.phase = Phase::Over,
            Phase::Alive | Phase::Draining { .. } if self.patience.is_some_and(|at| at <= now) => {
                self.drop_output()
            }
            Phase::Alive if self.network.as_ref().and_then(Network::due).is_some_and(|at| at <= now) => {
                self.follow_network()
            }
            _ => {}
        }
        for who in self.agent.overdue(now) {
            let error = AgentError::new(ErrorKind::Failed, "the guest's agent did not answer in time");
            match who {
                Waiting::Setup | Waiting::Interfaces => self.fail("setting up the container", &error.message),
                Waiting::Replugged | Waiting::Names => self.warn_of_network(&error.message),
                Waiting::Nobody => {}
                Waiting::Plugged(id) | Waiting::Start(id) | Waiting::Exec(id, _) | Waiting::Command(id) => {
                    self.refuse(id, &error)
                }
            }
        }
    }

    /// The program was killed, and nobody has read its output for a while: without a VM that would not hold it up either.
    fn drop_output(&mut self) {
        self.patience = None;
        let unread = |p: &Pump| p.process_id == INIT_PROCESS && p.direction == Direction::FromGuest;
        for pump in self.pumps.iter().filter(|p| unread(p)) {
            self.agent.mux.reset(pump.stream);
        }
        self.pumps.retain(|p| !unread(p));
    }

    /// Gives up. The first reason counts.
    pub(super) fn fail(&mut self, phase: &'static str, message: &str) {
        if self.failure.is_none() && self.exit.is_none() {
            self.failure = Some(Failed { phase, message: message.to_string() });
        }
        self.phase = Phase::Over;
    }

    fn run_pump(&mut self, stream: StreamId) {
        if let Some(index) = self.pumps.iter().position(|p| p.stream == stream) {
            self.pump_at(index);
        }
    }

    /// Tries every pump that has something to deliver and cannot block.
    fn run_pumps(&mut self) {
        for index in (0..self.pumps.len()).rev() {
            let pump = &self.pumps[index];
            let mux = &self.agent.mux;
            let ended = !mux.is_open(pump.stream)
                || pump.direction == Direction::FromGuest && mux.at_end(pump.stream);
            if ended || pump.direction == Direction::FromGuest && pump.never_blocks() && pump.wants(mux) {
                self.pump_at(index);
            }
        }
    }

    fn pump_at(&mut self, index: usize) {
        let pump = &mut self.pumps[index];
        match pump.run(&mut self.agent.mux) {
            pump::Progress::Ended => drop(self.pumps.swap_remove(index)),
            pump::Progress::Moved(count) => {
                if count > 0 && pump.process_id == INIT_PROCESS && pump.direction == Direction::FromGuest {
                    self.patience = self.patience.map(|_| Instant::now() + PATIENCE);
                    self.timeline.stamp_once("first output");
                }
            }
        }
    }

    fn write_channel(&mut self) {
        while !self.agent.mux.output().is_empty() {
            match self.channel.write(self.agent.mux.output()) {
                Ok(count) => self.agent.mux.sent(count),
                Err(_) => return,
            }
        }
    }

    /// A size from the terminal, or a signal that somebody sent to the container's pid.
    fn forward_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            if signal == libc::SIGWINCH {
                if let Some(size) = self.terminal.as_ref().and_then(|t| terminal::size(t.as_fd())) {
                    let container = self.plan.id.clone();
                    let body = RequestBody::Resize { container, process_id: INIT_PROCESS, size };
                    let _ = self.agent.request(body, Waiting::Nobody, super::agent_client::DEADLINE);
                }
                continue;
            }
            match self.phase {
                Phase::Alive if !self.paused => {
                    self.send_signal(INIT_PROCESS, signal, false, Waiting::Nobody)
                }
                Phase::Booting { .. } | Phase::SettingUp
                    if [libc::SIGTERM, libc::SIGINT].contains(&signal) =>
                {
                    self.fail("creating the container", "it was interrupted by a signal");
                }
                _ => {}
            }
        }
    }

    /// Ends the VMM, writes the last state, and says why if it was not the program's own end.
    fn end(mut self, reporter: &mut Reporter) -> u8 {
        self.machine.kill();
        let reason = self.machine.wait();
        // Before the state says that it has stopped: engines take the network down then.
        self.network.iter_mut().for_each(Network::give_back);
        if self.state.oom_killed {
            out_of_memory::show(&self.plan, &self.cgroups);
        }
        read_into(self.console.as_mut(), &mut self.console_tail);
        read_into(self.log.as_mut(), &mut self.log_tail);
        let was_created = matches!(self.state.status, Status::Created | Status::Running | Status::Paused);
        if self.exit.is_none() && self.failure.is_none() {
            self.failure = Some(self.lost(reason));
        }
        let code = self.exit.map_or(if was_created { LOST } else { 1 }, ExitStatus::code);
        self.state.status = Status::Stopped;
        self.state.exit_code = Some(code);
        self.timeline.stamp("machine ended");
        let failure = self.failure.as_ref().map(|failed| Failure {
            phase: failed.phase.to_string(),
            message: failed.message.clone(),
            console: self.console_tail.text(),
            vmm_log: self.log_tail.text(),
        });
        remember(&self.dir, &self.timeline, failure);
        let _ = std::fs::remove_file(self.dir.file("keeper.sock"));
        // A state that cannot be written reads as stopped all the same, because the lock is free.
        let _ = write_state(&self.dir, &self.state);
        if let Some(failed) = self.failure.take() {
            if was_created {
                self.say_on_stderr(&failed);
            }
            reporter.failed(&failed);
        }
        for who in self.agent.abandon() {
            if let Waiting::Plugged(id) | Waiting::Start(id) | Waiting::Exec(id, _) | Waiting::Command(id) =
                who
            {
                self.refuse(id, &AgentError::new(ErrorKind::NotRunning, "container not running"));
            }
        }
        for (id, process_id) in self.control.processes() {
            let status = self.exec_ends.get(&process_id).copied().unwrap_or(ExitStatus::Signal(9));
            self.control.reply(id, &Reply::Exited(status));
        }
        code
    }

    /// The container's output is the one place where its user looks.
    fn say_on_stderr(&self, failed: &Failed) {
        let text = format!(
            "cor: container {:?} was lost while {}: {} (see `cor why {}`)\n",
            self.plan.id, failed.phase, failed.message, self.plan.id
        );
        let port = self.ports.get(&plan::INIT_STDERR_PORT).map(|p| p.fd.as_fd());
        let fd = self.pumps.iter().find(|p| Some(p.stream) == self.errors).map(Pump::fd).or(port);
        if let Some(fd) = fd {
            let _ = rustix::io::write(fd, text.as_bytes());
        }
    }

    /// Why the VMM has ended by itself.
    fn lost(&self, reason: machine::ExitReason) -> Failed {
        let phase = match self.state.status {
            Status::Creating => "booting the guest",
            _ => "running the container",
        };
        let words = self.console_tail.last_words();
        let message = match (reason, self.log_tail.last_words(), words) {
            // The kernel knows more about its end than the VMM.
            (_, _, Some(words)) if words.contains("Kernel panic") => {
                format!("the guest's kernel gave up: {words}")
            }
            (_, Some(log), _) => format!("the virtual machine failed: {log}"),
            (machine::ExitReason::Signaled(libc::SIGSYS), _, _) => {
                "the virtual machine was ended for a system call that its jail forbids (signal 31); the host's audit log names it".to_string()
            }
            (machine::ExitReason::Signaled(signal), _, _) => {
                format!("the virtual machine was killed by signal {signal}")
            }
            (_, _, Some(words)) => format!("the guest has reset itself; its last words: {words}"),
            (_, _, None) => "the guest has reset itself without a word".to_string(),
        };
        Failed { phase, message }
    }

    /// Records a new status.
    pub(super) fn set_status(&mut self, status: Status) {
        self.state.status = status;
        if let Err(failed) = write_state(&self.dir, &self.state) {
            self.fail(failed.phase, &failed.message);
        }
    }
}

/// Reads what is there into a tail; false when the other end has closed.
fn read_into<R: Read + AsFd>(reader: Option<&mut R>, tail: &mut Tail) -> bool {
    let Some(reader) = reader else { return false };
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [PollFd::new(reader, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(0) | Err(Errno::INTR) => return true,
            _ => {}
        }
        match reader.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => tail.push(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
}
