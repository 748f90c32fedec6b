//! A program's run with what it took.
#![expect(unsafe_code, reason = "wait4, which no safe interface has")]

use anyhow::{Context, Result, bail};
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs to success; returns how long it took, and its page faults.
pub fn timed(command: &mut Command) -> Result<(Duration, i64)> {
    let begun = Instant::now();
    let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let mut status = 0;
    // SAFETY: rusage is plain data for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live through the call; the child is reaped here and nowhere else.
    if unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage) } < 0 {
        return Err(io::Error::last_os_error()).context("waiting for a child");
    }
    let time = begun.elapsed();
    if status != 0 {
        bail!("{command:?}: wait status {status:#x}");
    }
    Ok((time, usage.ru_minflt + usage.ru_majflt))
}
