//! The command on this machine, whose KVM works: no lab, the same promises about time and exit code.

use super::sys;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions};
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Exit code when the time is up, as of timeout(1).
pub const TIME_IS_UP: u8 = 124;

/// Runs it and returns its exit code.
///
/// # Errors
/// A program that cannot be started.
pub fn run(command: &[OsString], time: Duration) -> Result<u8> {
    let (program, arguments) = command.split_first().context("no command was given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    sys::tie(&mut command, Vec::new());
    let mut child = command.spawn().with_context(|| format!("starting {}", program.to_string_lossy()))?;
    let process = Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait()));
    match ended.recv_timeout(time) {
        Ok(status) => Ok(code(status.context("waiting for the command")?)),
        Err(_) => {
            eprintln!("lab: the command did not end within {} s", time.as_secs());
            // Not waited for yet, so the number is still its own; if it ended this instant there is nothing to kill.
            let _ = rustix::process::kill_process(process, Signal::KILL);
            Ok(TIME_IS_UP)
        }
    }
}

/// Makes orphans of the command children of this process, so that [`sweep`] finds them. Once, before [`run`].
///
/// # Errors
/// prctl(2)'s.
pub fn adopt() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("adopting orphans of the command")
}

/// Kills what the command left, as the end of an emulated machine would.
pub fn sweep() {
    // Grandchildren become children as their parents die; each round ends one generation. One of another user is let go.
    loop {
        let mut killed = children(rustix::process::getpid());
        killed.retain(|process| rustix::process::kill_process(*process, Signal::KILL).is_ok());
        if killed.is_empty() {
            return;
        }
        for process in killed {
            let _ = rustix::process::waitpid(Some(process), WaitOptions::empty());
        }
    }
}

/// Children of all threads of a process.
fn children(of: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", of.as_raw_pid())) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let numbers =
        |list: String| list.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<i32>>();
    lists.flat_map(numbers).filter_map(Pid::from_raw).collect()
}

/// As a shell counts.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, time: Duration) -> u8 {
        run(&["sh".into(), "-c".into(), script.into()], time).unwrap()
    }

    #[test]
    fn exit_codes_pass_through() {
        let hour = Duration::from_secs(3600);
        assert_eq!(shell("exit 7", hour), 7);
        assert_eq!(shell("kill -TERM $$", hour), 128 + 15);
    }

    #[test]
    fn time_is_kept() {
        assert_eq!(shell("exec sleep 1000", Duration::from_millis(50)), TIME_IS_UP);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&["no-such-program".into()], Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("no-such-program"));
    }
}
