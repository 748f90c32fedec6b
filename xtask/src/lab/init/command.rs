//! Runs the command as a child of PID 1, moves its streams, reaps everything.
//!
//! ```text
//!   port stdin ──thread──► pipe ─► command ─► pipes ──threads──► ports stdout, stderr      counted
//! ```
//! When the command ends, everything it left is killed; so the pipes end, and what is in them is the last of the output.

use crate::lab::sys;
use crate::lab::wire::{Bytes, Job};
use anyhow::{Context, Result};
use rustix::process::{WaitOptions, WaitStatus};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

/// Size of pipes and of one read: fewer switches between command and pump, which cost most by emulation.
const CHUNK: usize = 256 << 10;

/// A shell's codes for a program that is there and does not start, and for none.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The ports.
pub struct Streams {
    /// `None`: the command reads /dev/null.
    pub stdin: Option<File>,
    /// Receives its output.
    pub stdout: File,
    /// Receives its errors.
    pub stderr: File,
}

/// How the command ended, as in [`crate::lab::wire::Report::Exited`].
pub struct Ended {
    /// Exit code.
    pub code: u8,
    /// Bytes in the port.
    pub stdout: u64,
    /// Bytes in the port.
    pub stderr: u64,
}

/// Runs the command to its end; `started` is called once before.
///
/// # Errors
/// A stream that broke. A command that cannot be started is a result, told on its standard error.
pub fn run(job: &Job, mut streams: Streams, started: impl FnOnce() -> io::Result<()>) -> Result<Ended> {
    let mut command = prepare(job, streams.stdin.is_some());
    started().context("telling the host that the command starts")?;
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = command.get_program().to_string_lossy();
            let text = format!("lab: starting {program} in {}: {error}\n", lossy(&job.directory));
            streams.stderr.write_all(text.as_bytes()).context("writing to the host")?;
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
            return Ok(Ended { code, stdout: 0, stderr: text.len() as u64 });
        }
    };
    if let (Some(port), Some(pipe)) = (streams.stdin, child.stdin.take()) {
        // Not waited for: it may hang in the port for as long as the host has more to say.
        let _ = pump(port, pipe);
    }
    let stdout = child.stdout.take().context("the command's standard output is no pipe")?;
    let stderr = child.stderr.take().context("the command's standard error is no pipe")?;
    widen(&stdout);
    widen(&stderr);
    let (stdout, stderr) = (pump(stdout, streams.stdout), pump(stderr, streams.stderr));
    let code = reap(child.id()).context("waiting for the command")?;
    sys::kill_all_others();
    Ok(Ended { code, stdout: finish(stdout)?, stderr: finish(stderr)? })
}

fn prepare(job: &Job, stdin: bool) -> Command {
    let mut words = job.arguments.iter().map(|word| OsStr::from_bytes(word));
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command.env_clear();
    command.envs(
        job.environment.iter().map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))),
    );
    command.current_dir(Path::new(OsStr::from_bytes(&job.directory)));
    command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn lossy(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A pipe that keeps its size works too.
fn widen(pipe: &impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, CHUNK);
}

/// Copies until the source ends; returns how many bytes arrived.
fn pump(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> JoinHandle<io::Result<u64>> {
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        let mut total = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            to.write_all(&buffer[..count])?;
            total += count as u64;
        }
    })
}

fn finish(pump: JoinHandle<io::Result<u64>>) -> Result<u64> {
    let copied = pump.join().map_err(|_| anyhow::anyhow!("a stream's thread died"))?;
    copied.context("moving the command's output to the host")
}

/// Waits for a child, and for every orphan that ends before it.
fn reap(child: u32) -> io::Result<u8> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().unsigned_abs() == child => return Ok(code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
