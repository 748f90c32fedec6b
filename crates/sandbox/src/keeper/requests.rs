//! What commands ask of the keeper.

use super::Reporter;
use super::agent_client::DEADLINE;
use super::control::ConnectionId;
use super::protocol::{Reply, Request};
use super::pump::Direction;
use super::running::{Keeper, PATIENCE, Phase, Port, Waiting};
use crate::host::cgroup;
use crate::plan::{HostLimits, HostStep};
use crate::state::Status;
use guest_protocol::message::{
    self, AgentError, CgroupLimits, ErrorKind, INIT_PROCESS, Io, Process, RequestBody, TerminalSize,
};
use rustix::event::PollFlags;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long `start` may take: hooks in the guest may have no deadline of their own.
const START: Duration = Duration::from_secs(3600);

impl Keeper {
    /// A connection is ready.
    pub(super) fn connection(&mut self, id: ConnectionId, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.control.flush(id);
        }
        let (requests, over) = self.control.read(id);
        for request in requests {
            self.request(id, request);
        }
        if over {
            self.disconnected(id);
        }
    }

    /// The process that stands for an executed one has ended: so does the executed one.
    fn disconnected(&mut self, id: ConnectionId) {
        let Some(connection) = self.control.close(id) else { return };
        if let Some(process_id) = connection.process_id {
            self.send_signal(process_id, libc::SIGKILL, false, Waiting::Nobody);
        }
    }

    fn request(&mut self, id: ConnectionId, request: Request) {
        let container = self.plan.id.clone();
        let result = match request {
            Request::Start => self.start(id),
            Request::Kill { signal, all } => self.kill(id, signal, all),
            Request::Exec { process, .. } => self.exec(id, process),
            Request::KillExec { signal } => match self.control.get(id).and_then(|c| c.process_id) {
                Some(process_id) => {
                    self.alive().map(|()| self.send_signal(process_id, signal, false, Waiting::Nobody))
                }
                None => Err(not_running()),
            },
            Request::Resize(size) => self.resize(id, size),
            Request::Pause => self.set_paused(id, true),
            Request::Resume => self.set_paused(id, false),
            Request::Processes => self.ask(id, RequestBody::Processes { container }),
            Request::Statistics => self.ask(id, RequestBody::Statistics { container }),
            Request::Update { guest, host } => self.update(id, guest, &host),
        };
        if let Err(error) = result {
            self.refuse(id, &error);
        }
    }

    /// Answers with a failure.
    pub(super) fn refuse(&mut self, id: ConnectionId, error: &AgentError) {
        self.control.reply(id, &Reply::Failed { kind: error.kind, message: error.message.clone() });
    }

    /// An error unless the container's program waits or runs.
    fn alive(&self) -> Result<(), AgentError> {
        match self.phase {
            Phase::Alive => Ok(()),
            _ => Err(not_running()),
        }
    }

    /// An error unless the guest can answer.
    fn awake(&self) -> Result<(), AgentError> {
        self.alive()?;
        if self.paused {
            let words = "container is paused: resume it first";
            return Err(AgentError::new(ErrorKind::Invalid, words));
        }
        Ok(())
    }

    fn ask(&mut self, id: ConnectionId, body: RequestBody) -> Result<(), AgentError> {
        self.awake()?;
        self.send(body, Waiting::Command(id), DEADLINE)
    }

    pub(super) fn send(
        &mut self,
        body: RequestBody,
        who: Waiting,
        deadline: Duration,
    ) -> Result<(), AgentError> {
        self.agent
            .request(body, who, deadline)
            .map_err(|(_, reason)| AgentError::new(ErrorKind::Failed, reason))
    }

    fn start(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        self.awake()?;
        match self.state.status {
            Status::Created => {
                self.timeline.stamp("start");
                if self.plug(id)? { Ok(()) } else { self.run_program(id) }
            }
            Status::Stopped => {
                Err(AgentError::new(ErrorKind::Invalid, "cannot start a container that has stopped"))
            }
            _ => Err(AgentError::new(ErrorKind::Invalid, "cannot start an already running container")),
        }
    }

    /// Has the agent execute the container's program.
    pub(super) fn run_program(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        let body = RequestBody::Start { container: self.plan.id.clone() };
        self.send(body, Waiting::Start(id), START)
    }

    fn kill(&mut self, id: ConnectionId, signal: i32, all: bool) -> Result<(), AgentError> {
        if signal == libc::SIGKILL {
            match self.phase {
                Phase::Alive | Phase::Draining { .. } => self.patience = Some(Instant::now() + PATIENCE),
                // It was killed while the guest was still being set up.
                Phase::Booting { .. } | Phase::SettingUp => {
                    self.fail("creating the container", "it was killed")
                }
                _ => {}
            }
            if self.paused {
                self.set_machine_paused(false)?;
            }
        }
        self.awake()?;
        self.send_signal(INIT_PROCESS, signal, all, Waiting::Command(id));
        Ok(())
    }

    /// Sends a signal to a process of the container.
    pub(super) fn send_signal(&mut self, process_id: u32, signal: i32, all: bool, who: Waiting) {
        let body = RequestBody::Signal { container: self.plan.id.clone(), process_id, signal, all };
        if let Err((Waiting::Command(id), reason)) = self.agent.request(body, who, DEADLINE) {
            self.refuse(id, &AgentError::new(ErrorKind::Failed, reason));
        }
    }

    fn exec(&mut self, id: ConnectionId, mut process: Box<Process>) -> Result<(), AgentError> {
        self.awake()?;
        let Some(connection) = self.control.get(id) else { return Ok(()) };
        if connection.process_id.is_some() {
            return Err(AgentError::new(ErrorKind::Invalid, "this connection has a process already"));
        }
        let stdio = std::mem::take(&mut connection.stdio);
        let process_id = self.next_process;
        self.next_process += 1;
        connection.process_id = Some(process_id);
        process.io = self.exec_ports(process_id, stdio);
        let container = self.plan.id.clone();
        let sent = self.send(
            RequestBody::Exec { container, process_id, process },
            Waiting::Exec(id, process_id),
            DEADLINE,
        );
        if sent.is_err() {
            self.forget_exec(id, process_id);
        }
        sent
    }

    /// Ports for the descriptors that came with the connection: stdin, stdout, stderr.
    fn exec_ports(&mut self, process_id: u32, stdio: Vec<OwnedFd>) -> Io {
        let directions = [Direction::ToGuest, Direction::FromGuest, Direction::FromGuest];
        let mut numbers = [None; 3];
        for ((fd, direction), number) in stdio.into_iter().zip(directions).zip(&mut numbers) {
            self.ports.insert(self.next_port, Port { process_id, direction, fd });
            *number = Some(self.next_port);
            self.next_port += 1;
        }
        Io { stdin: numbers[0], stdout: numbers[1], stderr: numbers[2] }
    }

    fn forget_exec(&mut self, id: ConnectionId, process_id: u32) {
        self.ports.retain(|_, port| port.process_id != process_id);
        if let Some(connection) = self.control.get(id) {
            connection.process_id = None;
        }
    }

    fn resize(&mut self, id: ConnectionId, size: TerminalSize) -> Result<(), AgentError> {
        self.awake()?;
        let process_id = self.control.get(id).and_then(|c| c.process_id).ok_or_else(not_running)?;
        let body = RequestBody::Resize { container: self.plan.id.clone(), process_id, size };
        self.send(body, Waiting::Nobody, DEADLINE)
    }

    fn set_paused(&mut self, id: ConnectionId, pause: bool) -> Result<(), AgentError> {
        self.alive()?;
        let wrong = match (pause, self.paused) {
            (true, true) => Some("container is paused already"),
            (false, false) => Some("container not paused"),
            (true, false) if self.state.status != Status::Running => Some("container not running"),
            _ => None,
        };
        if let Some(words) = wrong {
            return Err(AgentError::new(ErrorKind::Invalid, words));
        }
        self.set_machine_paused(pause)?;
        self.control.reply(id, &Reply::Done);
        Ok(())
    }

    fn set_machine_paused(&mut self, pause: bool) -> Result<(), AgentError> {
        let Some(power) = self.machine.pause() else {
            return Err(AgentError::new(ErrorKind::Invalid, "this machine cannot be paused"));
        };
        let done = if pause { power.pause() } else { power.resume() };
        done.map_err(|e| AgentError::new(ErrorKind::Failed, e.to_string()))?;
        self.paused = pause;
        self.set_status(if pause { Status::Paused } else { Status::Running });
        Ok(())
    }

    fn update(
        &mut self,
        id: ConnectionId,
        guest: Box<CgroupLimits>,
        host: &HostLimits,
    ) -> Result<(), AgentError> {
        self.awake()?;
        for step in &self.plan.host {
            if let HostStep::Cgroup { path, .. } = step {
                cgroup::apply(&self.cgroups, path, host)
                    .map_err(|e| AgentError::new(ErrorKind::Failed, e.to_string()))?;
            }
        }
        let container = self.plan.id.clone();
        self.send(RequestBody::Update { container, limits: guest }, Waiting::Command(id), DEADLINE)
    }

    /// The agent has answered.
    pub(super) fn answer(
        &mut self,
        who: Waiting,
        result: Result<message::Reply, AgentError>,
        reporter: &mut Reporter,
    ) {
        match (who, result) {
            (Waiting::Setup, result) => self.set_up(result, reporter),
            (Waiting::Interfaces, Err(error)) => self.fail("setting up the network", &error.message),
            (Waiting::Replugged | Waiting::Names, Err(error)) => self.warn_of_network(&error.message),
            (Waiting::Plugged(id), Ok(_)) => {
                if let Err(error) = self.run_program(id) {
                    self.refuse(id, &error);
                }
            }
            (Waiting::Start(id), Ok(_)) => {
                self.timeline.stamp("program started");
                if matches!(self.phase, Phase::Alive) {
                    self.set_status(Status::Running);
                }
                super::remember(&self.dir, &self.timeline, None);
                self.control.reply(id, &Reply::Done);
            }
            (Waiting::Exec(id, _), Ok(message::Reply::Created { pid })) => {
                self.control.reply(id, &Reply::Executed { guest_pid: pid });
            }
            (Waiting::Exec(id, process_id), Err(error)) => {
                self.forget_exec(id, process_id);
                self.refuse(id, &error);
            }
            (Waiting::Command(id), Ok(message::Reply::Processes(list))) => {
                self.control.reply(id, &Reply::Processes(list));
            }
            (Waiting::Command(id), Ok(message::Reply::Statistics(statistics))) => {
                self.control.reply(id, &Reply::Statistics(statistics));
            }
            (Waiting::Command(id), Ok(message::Reply::Done)) => self.control.reply(id, &Reply::Done),
            (Waiting::Plugged(id) | Waiting::Start(id) | Waiting::Command(id), Err(error)) => {
                self.refuse(id, &error);
            }
            (Waiting::Exec(id, _) | Waiting::Command(id), Ok(_)) => {
                self.refuse(
                    id,
                    &AgentError::new(ErrorKind::Failed, "the guest's agent gave an answer of another kind"),
                );
            }
            (Waiting::Interfaces | Waiting::Replugged | Waiting::Names, Ok(_)) | (Waiting::Nobody, _) => {}
        }
    }
}

fn not_running() -> AgentError {
    AgentError::new(ErrorKind::NotRunning, "container not running")
}
