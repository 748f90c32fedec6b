//! The keeper: the process whose pid is the container's for engines, and the only writer of its state.
//!
//! ```text
//!   cor create ──► keeper                                   fds 0-2, plan, lock, status socket, console socket donated
//!                    │ boot.rs     host steps, VMM started                  ──► Progress::Namespaces
//!                    │ running.rs  the agent's hello, hooks done ─► Setup   ──► Progress::Created ─► state = created
//!                    │             one poll loop: channel, stdio, console, commands, signals, VMM
//!                    │             Exited ─► output delivered ─► Shutdown ─► VMM ended ─► state = stopped
//!                    ▼
//!                  exits with the program's exit code
//! ```
//!
//! One thread does the work: no blocking call after start-up, every wait with a deadline. Another one shows the container to engines (`face.rs`).
//! Whatever kills them takes the VMM along (PR_SET_PDEATHSIG); what they leave then is on the undo list.

mod agent_client;
mod boot;
mod control;
mod face;
mod functions;
mod names;
mod network;
pub mod out_of_memory;
pub mod protocol;
pub mod pump;
mod requests;
mod running;
mod tail;
pub mod timeline;

use crate::history::{self, Failure, Record};
use crate::plan::SandboxPlan;
use crate::signals::SignalFd;
use crate::state::{StateDir, StateFile, Status};
use face::Face;
use protocol::Progress;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use timeline::Timeline;

/// What `create` donates.
#[derive(Debug)]
pub struct Launch {
    /// The container's directory.
    pub dir: StateDir,
    /// The plan, JSON.
    pub plan: File,
    /// Where progress is told, and permission to go on is received.
    pub status: UnixStream,
    /// The container's lock.
    pub lock: File,
    /// Where the terminal's master goes, when the container has a terminal.
    pub console: Option<OwnedFd>,
    /// When the user's command began ([`timeline::now_us`]).
    pub start_us: u64,
}

/// A failure of the keeper's own work.
#[derive(Debug)]
pub(crate) struct Failed {
    phase: &'static str,
    message: String,
}

impl Failed {
    fn while_<E: std::fmt::Display>(phase: &'static str) -> impl FnOnce(E) -> Failed {
        move |e| Failed { phase, message: e.to_string() }
    }
}

/// Runs the container to its end; returns the exit code for this process.
pub fn run(launch: Launch) -> u8 {
    // Blocked in every thread, or the first one would take what the second one is to read.
    let signals = SignalFd::new(&[libc::SIGWINCH]);
    face::with_face(move |face| work(launch, signals, face))
}

fn work(launch: Launch, signals: io::Result<SignalFd>, face: Face) -> u8 {
    let mut timeline = Timeline::new(launch.start_us);
    timeline.stamp("keeper");
    let Launch { dir, plan, status, lock, console, .. } = launch;
    let mut reporter = Reporter { status: Some(status) };
    let plan = match read_plan(plan) {
        Ok(plan) => plan,
        Err(failed) => {
            reporter.failed(&failed);
            return 1;
        }
    };
    let code = match boot::boot(&dir, plan, console, signals, face, timeline, &mut reporter) {
        Ok(keeper) => keeper.run(reporter),
        Err((failed, timeline, logs)) => {
            let failure = Failure {
                phase: failed.phase.to_string(),
                message: failed.message.clone(),
                console: String::new(),
                vmm_log: logs,
            };
            remember(&dir, &timeline, Some(failure));
            reporter.failed(&failed);
            1
        }
    };
    drop(lock);
    code
}

fn read_plan(mut file: File) -> Result<SandboxPlan, Failed> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(Failed::while_("reading the plan"))?;
    serde_json::from_slice(&text).map_err(Failed::while_("reading the plan"))
}

/// Keeps timeline and failure for `trace` and `why`. A full disk must not fail a container that works.
fn remember(dir: &StateDir, timeline: &Timeline, failure: Option<Failure>) {
    let record = Record { id: dir.id().to_string(), timeline: timeline.stamps(), failure };
    let _ = history::save(dir.root(), &record);
}

/// Tells `create` how it goes.
struct Reporter {
    status: Option<UnixStream>,
}

impl Reporter {
    fn tell(&mut self, progress: &Progress) {
        if let (Some(status), Ok(mut line)) = (&mut self.status, serde_json::to_vec(progress)) {
            line.push(b'\n');
            // When `create` is gone, its end of the socket shows it in the poll loop.
            let _ = status.write_all(&line);
        }
    }

    fn failed(&mut self, failed: &Failed) {
        self.tell(&Progress::Failed { phase: failed.phase.to_string(), message: failed.message.clone() });
        self.status = None;
    }
}

/// Writes `state.json`.
fn write_state(dir: &StateDir, state: &StateFile) -> Result<(), Failed> {
    let text = serde_json::to_vec(state).map_err(Failed::while_("writing the state"))?;
    dir.write("state.json", &text).map_err(Failed::while_("writing the state"))
}

fn new_state(plan: &SandboxPlan, vmm: &str) -> StateFile {
    StateFile {
        id: plan.id.clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        created: humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string(),
        pid: std::process::id(),
        vmm_pid: None,
        status: Status::Creating,
        exit_code: None,
        oom_killed: false,
        annotations: plan.annotations.clone(),
        machine: crate::state::MachineSummary {
            vmm: vmm.to_string(),
            accelerator: plan.machine.accelerator,
            vcpus: plan.machine.vcpus,
            memory_mib: plan.machine.memory_mib,
        },
    }
}
