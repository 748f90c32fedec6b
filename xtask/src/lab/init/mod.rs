//! PID 1 of the lab: this same program, started by the kernel from the host's read-only root.
//!
//! ```text
//!   modules.rs  loads them, when the kernel has any
//!   ports.rs    virtio-serial ports by name
//!   mounts.rs   overlay over the host's root, fresh /proc /sys /dev /run /tmp, shares
//!   command.rs  runs the command, moves its streams, kills what it leaves
//!   beat.rs     tells the host that the machine runs, and what is in it when asked
//!
//!   Job ─► mounts ─► Started ─► the command ─► all streams empty, shares written ─► Exited ─► the host ends the machine
//! ```

mod beat;
mod command;
mod modules;
mod mounts;
mod ports;

use super::sys;
use super::wire::{self, Job, Report};
use anyhow::{Context, Result};
use beat::Control;
use rustix::process::{Resource, Rlimit};
use rustix::time::{ClockId, Timespec};
use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

/// The hidden command that makes this program PID 1.
pub const COMMAND: &str = "lab-init";

/// Descriptors that the command may open, as a host's service manager gives.
const MOST_FILES: u64 = 1 << 20;

/// Runs the job that the host sends, and ends the machine.
///
/// # Errors
/// When this is no lab.
pub fn run() -> Result<ExitCode> {
    anyhow::ensure!(
        rustix::process::getpid().is_init(),
        "`{COMMAND}` is PID 1 of the lab's machine and nothing else"
    );
    let host = modules::load()?;
    let mut port = ports::open("control")?;
    let job = wire::receive(&mut port).context("reading the job");
    let control = Control::new(port);
    let answers = control.answer()?;
    let mut open = Vec::new();
    let report = match job.and_then(|job| serve(&job, &control, &host, &mut open)) {
        Ok(report) => report,
        Err(error) => Report::Failed(format!("{error:#}")),
    };
    control.send(&report).context("telling the host how it ended")?;
    // The host ends the machine when it has everything. If it does not, it is gone: the port is closed then.
    let _ = answers.join();
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff).context("switching the machine off")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the job. What is put into `open` is to stay open: closing a port could lose what is still on its way.
fn serve(job: &Job, control: &Control, host: &Path, open: &mut Vec<File>) -> Result<Report> {
    settle(job)?;
    mounts::root(job, host)?;
    control_groups();
    let streams = command::Streams {
        stdin: if job.stdin { Some(ports::open("stdin")?) } else { None },
        stdout: ports::open("stdout")?,
        stderr: ports::open("stderr")?,
    };
    for port in [&streams.stdout, &streams.stderr] {
        open.push(port.try_clone().context("keeping a port open")?);
    }
    let started = || {
        control.send(&Report::Started)?;
        control.beat();
        Ok(())
    };
    let ended = command::run(job, streams, started)?;
    mounts::write_back(job);
    Ok(Report::Exited { code: ended.code, stdout: ended.stdout, stderr: ended.stderr })
}

/// Clock, name, limits, loopback.
fn settle(job: &Job) -> Result<()> {
    let now = Timespec { tv_sec: job.now.0, tv_nsec: job.now.1.into() };
    rustix::time::clock_settime(ClockId::Realtime, now).context("setting the clock")?;
    rustix::system::sethostname(b"lab").context("setting the host name")?;
    rustix::process::setsid().context("starting a session")?;
    let files = Rlimit { current: Some(MOST_FILES), maximum: Some(MOST_FILES) };
    rustix::process::setrlimit(Resource::Nofile, files).context("raising the limit of open files")?;
    sys::loopback_up().context("turning the loopback interface on")
}

/// Gives every controller to the groups below the root, as a service manager does. A kernel that has fewer is no failure.
fn control_groups() {
    let Ok(controllers) = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") else { return };
    for controller in controllers.split_whitespace() {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
    }
}
