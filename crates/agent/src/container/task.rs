//! A process of a container that the host asked for, from its clone to the last byte of its output.
//!
//! ```text
//!   Preparing ──Ready──► Created ──Start──► Starting ──Executing, end of file──► Running ──waitpid──► (exit) ──output drained──► gone
//!       └── an exec'd process starts by itself: Preparing ──Ready──► Starting
//! ```

use super::status::{AgentEnd, Report, START};
use super::stdio;
use crate::error::{Doing, Result, failed};
use crate::streams::TaskKey;
use crate::sys;
use guest_protocol::message::{AgentError, ExitStatus, Io, Process, Rlimit, Scheduler};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Pid;
use std::rc::Rc;

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Being prepared for this request.
    Preparing {
        /// `Setup` or `Exec`, not answered yet.
        request: u32,
    },
    /// Waits for `Start`.
    Created,
    /// About to execute its program for this request.
    Starting {
        /// `Start` or `Exec`, not answered yet.
        request: u32,
        /// It said that execve(2) comes next.
        executing: bool,
    },
    /// The program runs, or ran.
    Running,
}

/// What only the machine's root may set for a process, after everything else.
pub struct Limits {
    rlimits: Vec<Rlimit>,
    oom_score_adj: Option<i32>,
    scheduler: Option<Scheduler>,
    io_priority: Option<(u8, u8)>,
}

/// A process of a container.
pub struct Task {
    /// Names it in the agent.
    pub key: TaskKey,
    /// Its container.
    pub container: String,
    /// The host's name for it.
    pub process_id: u32,
    /// As the machine numbers it.
    pub pid: Pid,
    /// The process itself.
    pub pidfd: OwnedFd,
    /// How far it is.
    pub phase: Phase,
    /// Where it reports, until its program runs.
    pub status: Option<AgentEnd>,
    /// Why it did not become its program.
    pub failure: Option<AgentError>,
    /// Ports of its standard files.
    pub io: Io,
    /// Agent's ends of its pipes, until they get streams.
    pub ends: Vec<stdio::AgentEnd>,
    /// Master of its terminal.
    pub terminal: Option<Rc<OwnedFd>>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    limits: Limits,
}

/// What happened to a task by its own report.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing that others need to know.
    Nothing,
    /// It has been prepared.
    Ready {
        /// The request that asked for it.
        request: u32,
    },
    /// Its program runs.
    Executed {
        /// The request that asked for it.
        request: u32,
    },
}

/// A process that was just cloned.
pub struct Newborn {
    /// See [`Task::pid`].
    pub pid: Pid,
    /// See [`Task::pidfd`].
    pub pidfd: OwnedFd,
    /// See [`Task::status`].
    pub status: AgentEnd,
    /// See [`Task::ends`].
    pub ends: Vec<stdio::AgentEnd>,
}

impl Task {
    /// A process that is being prepared for `request`.
    pub fn new(
        key: TaskKey,
        container: &str,
        process_id: u32,
        request: u32,
        process: &Process,
        born: Newborn,
    ) -> Task {
        Task {
            key,
            container: container.to_owned(),
            process_id,
            pid: born.pid,
            pidfd: born.pidfd,
            phase: Phase::Preparing { request },
            status: Some(born.status),
            failure: None,
            io: process.io,
            ends: born.ends,
            terminal: None,
            exit: None,
            limits: Limits {
                rlimits: process.rlimits.clone(),
                oom_score_adj: process.oom_score_adj,
                scheduler: process.scheduler,
                io_priority: process.io_priority,
            },
        }
    }

    /// Takes one report of the child; `None` when there is no more for now.
    pub fn next_progress(&mut self) -> Option<Progress> {
        let report = match self.status.as_ref()?.receive() {
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Ok(Some(report)) => report,
            end => {
                self.status = None;
                return Some(self.reports_ended(end.is_ok()));
            }
        };
        Some(match (report, self.phase) {
            (Report::Terminal(master), _) => {
                // A master that blocks would stop the agent, so one that cannot be set so is not used.
                if rustix::io::ioctl_fionbio(&master, true).is_ok() {
                    self.terminal = Some(Rc::new(master));
                }
                Progress::Nothing
            }
            (Report::Ready, Phase::Preparing { request }) => {
                self.phase = Phase::Created;
                Progress::Ready { request }
            }
            (Report::Executing, Phase::Starting { request, .. }) => {
                self.phase = Phase::Starting { request, executing: true };
                Progress::Nothing
            }
            (Report::Failed(error), _) => {
                self.failure = Some(error);
                if let Phase::Starting { request, .. } = self.phase {
                    self.phase = Phase::Starting { request, executing: false };
                }
                Progress::Nothing
            }
            _ => Progress::Nothing,
        })
    }

    fn reports_ended(&mut self, properly: bool) -> Progress {
        match self.phase {
            Phase::Starting { request, executing: true } if properly && self.failure.is_none() => {
                self.phase = Phase::Running;
                Progress::Executed { request }
            }
            _ => Progress::Nothing,
        }
    }

    /// Lets a prepared process become its program; the answer to `request` comes with its next report.
    ///
    /// # Errors
    /// When a limit cannot be set; the process is then as good as dead.
    pub fn start(&mut self, request: u32) -> Result<()> {
        self.limits.apply(self.pid)?;
        let told = self.status.as_ref().map_or(Err(Errno::SRCH), |status| status.tell(START));
        told.doing(|| "start the process".into())?;
        self.phase = Phase::Starting { request, executing: false };
        Ok(())
    }

    /// The request that still has no answer, and the answer for the case that the process has ended.
    pub fn unanswered(&mut self) -> Option<(u32, AgentError)> {
        let (Phase::Preparing { request } | Phase::Starting { request, .. }) = self.phase else {
            return None;
        };
        let how = match self.exit {
            Some(ExitStatus::Signal(signal)) => format!("was killed by signal {signal}"),
            Some(ExitStatus::Code(code)) => format!("ended with code {code}"),
            None => "ended".into(),
        };
        let unexplained = || failed(format!("the container's process {how} before its program ran"));
        Some((request, self.failure.take().unwrap_or_else(unexplained)))
    }
}

impl Limits {
    fn apply(&self, pid: Pid) -> Result<()> {
        for Rlimit { resource, soft, hard } in &self.rlimits {
            sys::set_limit(pid, *resource, *soft, *hard)
                .doing(|| format!("error setting rlimit type {resource} to {soft}:{hard}"))?;
        }
        if let Some(value) = self.oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
            std::fs::write(path, value.to_string()).doing(|| format!("set oom_score_adj to {value}"))?;
        }
        if let Some((class, level)) = self.io_priority {
            sys::set_io_priority(pid, class, level).doing(|| "set the IO priority".into())?;
        }
        if let Some(scheduler) = &self.scheduler {
            sys::set_scheduler(pid, scheduler).doing(|| "set the scheduler".into())?;
        }
        Ok(())
    }
}
