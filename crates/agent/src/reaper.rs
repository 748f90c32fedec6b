//! Ends of processes: statuses are taken from the kernel at once, and told once the process's output is on its streams.

use crate::container::Container;
use crate::container::task::Phase;
use crate::error::{Doing, Result};
use crate::server::Server;
use crate::streams::TaskKey;
use guest_protocol::message::{Event, ExitStatus, INIT_PROCESS};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};

fn exit_status(status: WaitStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code as u8),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or(0) as u8),
    }
}

impl Server {
    /// Takes the statuses of all children that have ended, those included that the kernel gave to PID 1.
    ///
    /// # Errors
    /// When the host does not read.
    pub fn reap(&mut self) -> Result<()> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e).doing(|| "wait for processes".into()),
            };
            let found = self.tasks.values().find(|t| t.pid == pid && t.exit.is_none());
            let Some(key) = found.map(|t| t.key) else { continue };
            // What it reported last comes before its end.
            self.progress_of(key)?;
            if let Some(task) = self.tasks.get_mut(&key) {
                task.exit = Some(exit_status(status));
                task.status = None;
                self.streams.task_ended(key);
            }
        }
    }

    /// Tells the host of every process that has ended and whose output is on its streams.
    ///
    /// # Errors
    /// When the host does not read.
    pub fn tell_exits(&mut self) -> Result<()> {
        let ended: Vec<TaskKey> = self.tasks.values().filter(|t| t.exit.is_some()).map(|t| t.key).collect();
        for key in ended {
            self.tell_exit(key)?;
        }
        Ok(())
    }

    fn tell_exit(&mut self, key: TaskKey) -> Result<()> {
        let Some(task) = self.tasks.get_mut(&key) else { return Ok(()) };
        let first = task.process_id == INIT_PROCESS;
        // With the first process its whole pid namespace has ended, so nobody writes any more.
        if !self.streams.drained(&mut self.link.mux, key, first) {
            return Ok(());
        }
        self.streams.close_input(&mut self.link.mux, key, first);
        let Some(mut task) = self.tasks.remove(&key) else { return Ok(()) };
        let unanswered = task.unanswered();
        let was_created =
            !matches!(task.phase, Phase::Preparing { .. }) && (first || task.phase == Phase::Running);
        let (container, process_id) = (task.container, task.process_id);
        let kills = self.oom_kills(&container);
        if let Some((request, error)) = unanswered {
            if first && !was_created {
                self.containers.remove(&container);
            }
            self.answer(request, Err(error))?;
        }
        if let (true, Some(status)) = (was_created, task.exit) {
            let oom_killed = kills > 0;
            self.tell(Event::Exited { container: container.clone(), process_id, status, oom_killed })?;
        }
        if !self.tasks.values().any(|t| t.container == container) {
            self.ended.extend(self.containers.get_mut(&container).and_then(Container::end));
        }
        Ok(())
    }

    fn oom_kills(&self, container: &str) -> u64 {
        let cgroup = self.containers.get(container).and_then(|c| c.cgroup.as_ref());
        cgroup.map_or(0, |c| c.oom_kills())
    }

    /// Tells the host of containers in which the kernel has killed processes for lack of memory.
    ///
    /// # Errors
    /// When the host does not read.
    pub fn tell_lack_of_memory(&mut self) -> Result<()> {
        let mut lacking = Vec::new();
        for (id, container) in &mut self.containers {
            let Some(cgroup) = &container.cgroup else { continue };
            let kills = cgroup.oom_kills();
            if kills > container.oom_kills {
                container.oom_kills = kills;
                lacking.push(id.clone());
            }
        }
        lacking.into_iter().try_for_each(|container| self.tell(Event::OutOfMemory { container }))
    }
}
