//! What the host asks for, one function each.

use crate::container::exec::{self, Exec};
use crate::container::task::{Phase, Task};
use crate::container::{host_disks, processes, setup, statistics, terminal};
use crate::error::{Doing, Result, failed, invalid};
use crate::machine::power;
use crate::names::Names;
use crate::server::Server;
use crate::streams::TaskKey;
use crate::{log, sys};
use guest_protocol::message::{
    AgentError, CgroupLimits, ErrorKind, INIT_PROCESS, Process, Reply, Request, RequestBody, Setup,
    TerminalSize,
};
use rustix::fd::AsFd;

/// Highest signal number of Linux on any architecture.
const MAX_SIGNAL: i32 = 128;

impl Server {
    /// Does what a request asks for. Requests that take longer are answered later.
    ///
    /// # Errors
    /// When the host does not read. A request that fails is an answer, no error.
    pub fn serve(&mut self, request: Request) -> Result<()> {
        let id = request.id;
        let done = match request.body {
            RequestBody::Setup(mut setup) => self.set_up(id, &mut setup),
            RequestBody::Start { container } => self.start(id, &container),
            RequestBody::Exec { container, process_id, process } => {
                self.exec(id, &container, process_id, &process)
            }
            RequestBody::Signal { container, process_id, signal, all } => {
                self.signal(&container, process_id, signal, all).map(Some)
            }
            RequestBody::Resize { container, process_id, size } => {
                self.resize(&container, process_id, size).map(Some)
            }
            RequestBody::Processes { container } => self.processes(&container).map(Some),
            RequestBody::Statistics { container } => self.statistics(&container).map(Some),
            RequestBody::Update { container, limits } => self.update(&container, &limits).map(Some),
            RequestBody::Interfaces(interfaces) => self.network.set(interfaces).map(|()| Some(Reply::Done)),
            RequestBody::NameService => self.answer_names().map(Some),
            RequestBody::Shutdown => {
                log::debug("the host asks to power off");
                power::write_back();
                self.link.say_goodbye();
                power::off()
            }
        };
        match done {
            // The answer comes with the process's own report.
            Ok(None) => Ok(()),
            Ok(Some(reply)) => self.answer(id, Ok(reply)),
            Err(error) => self.answer(id, Err(error)),
        }
    }

    fn answer_names(&mut self) -> Result<Reply> {
        if self.names.is_none() {
            self.names = Some(Names::new()?);
        }
        Ok(Reply::Done)
    }

    fn next_key(&mut self) -> TaskKey {
        self.last_key += 1;
        self.last_key
    }

    fn set_up(&mut self, request: u32, setup: &mut Setup) -> Result<Option<Reply>> {
        if self.containers.get(&setup.container).is_some_and(|c| c.cgroup.is_some()) {
            return Err(invalid(format!("the container {} exists", setup.container)));
        }
        self.ended.clear();
        host_disks::renumber(&mut setup.steps)?;
        let (container, task) = setup::begin(setup, self.next_key(), request)?;
        self.containers.insert(setup.container.clone(), container);
        self.tasks.insert(task.key, task);
        Ok(None)
    }

    fn start(&mut self, request: u32, container: &str) -> Result<Option<Reply>> {
        let task = self.task(container, INIT_PROCESS)?;
        if task.phase != Phase::Created {
            return Err(invalid(format!("the container {container} was started already")));
        }
        if let Err(error) = task.start(request) {
            // It was prepared and can never run.
            let _ = sys::send_signal(task.pidfd.as_fd(), libc::SIGKILL);
            return Err(error);
        }
        Ok(None)
    }

    fn exec(&mut self, request: u32, id: &str, process_id: u32, process: &Process) -> Result<Option<Reply>> {
        let taken = |t: &Task| t.container == id && t.process_id == process_id;
        if process_id == INIT_PROCESS || self.tasks.values().any(taken) {
            return Err(invalid(format!("the process id {process_id} is taken")));
        }
        let key = self.next_key();
        let first = self.task(id, INIT_PROCESS)?.key;
        let (container, first) = match (self.containers.get(id), self.tasks.get(&first)) {
            (Some(container), Some(first)) => (container, first),
            _ => return Err(no_container(id)),
        };
        if matches!(first.phase, Phase::Preparing { .. }) {
            return Err(invalid(format!("the container {id} is not ready yet")));
        }
        let task = exec::begin(&Exec { id, process_id, process, container, first }, key, request)?;
        self.tasks.insert(key, task);
        Ok(None)
    }

    fn signal(&mut self, container: &str, process_id: u32, signal: i32, all: bool) -> Result<Reply> {
        if !(0..=MAX_SIGNAL).contains(&signal) {
            return Err(invalid(format!("{signal} is no signal")));
        }
        if all {
            let cgroup = self.container(container)?.cgroup.as_ref().ok_or_else(|| not_running(container))?;
            if signal == libc::SIGKILL {
                cgroup.kill()?;
            } else {
                for pid in cgroup.pids() {
                    // One that has ended meanwhile needs no signal.
                    let _ = sys::kill(pid as i32, signal);
                }
            }
            return Ok(Reply::Done);
        }
        let task = self.task(container, process_id)?;
        match sys::send_signal(task.pidfd.as_fd(), signal) {
            Err(rustix::io::Errno::SRCH) => Err(not_running(container)),
            result => result.doing(|| format!("send signal {signal}")).map(|()| Reply::Done),
        }
    }

    fn resize(&mut self, container: &str, process_id: u32, size: TerminalSize) -> Result<Reply> {
        let task = self.task(container, process_id)?;
        let master = task.terminal.as_ref().ok_or_else(|| invalid("the process has no terminal"))?;
        terminal::resize(master.as_fd(), size).doing(|| "resize the terminal".into())?;
        Ok(Reply::Done)
    }

    fn processes(&mut self, container: &str) -> Result<Reply> {
        let cgroup = self.container(container)?.cgroup.as_ref().ok_or_else(|| not_running(container))?;
        Ok(Reply::Processes(processes::list(cgroup)))
    }

    fn statistics(&mut self, container: &str) -> Result<Reply> {
        let cgroup = self.container(container)?.cgroup.as_ref().ok_or_else(|| not_running(container))?;
        Ok(Reply::Statistics(Box::new(statistics::read(cgroup))))
    }

    fn update(&mut self, container: &str, limits: &CgroupLimits) -> Result<Reply> {
        let known = self.containers.get_mut(container).ok_or_else(|| no_container(container))?;
        let cgroup = known.cgroup.as_mut().ok_or_else(|| not_running(container))?;
        cgroup.apply(limits).map(|()| Reply::Done)
    }

    fn container(&self, id: &str) -> Result<&crate::container::Container> {
        self.containers.get(id).ok_or_else(|| no_container(id))
    }

    fn task(&mut self, container: &str, process_id: u32) -> Result<&mut Task> {
        if !self.containers.contains_key(container) {
            return Err(no_container(container));
        }
        let found = self.tasks.values_mut().find(|t| t.container == container && t.process_id == process_id);
        found.filter(|t| t.exit.is_none()).ok_or_else(|| not_running(container))
    }
}

fn no_container(id: &str) -> AgentError {
    AgentError::new(ErrorKind::NotFound, format!("no container {id:?} in this machine"))
}

fn not_running(id: &str) -> AgentError {
    AgentError { kind: ErrorKind::NotRunning, ..failed(format!("the process of container {id:?} has ended")) }
}
