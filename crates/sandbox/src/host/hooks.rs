//! OCI hooks that run on the host.
//!
//! They run in the caller (`create`, `start`, `delete`), never in the keeper: a hook that hangs must not stop a
//! container's output.

use super::HostError;
use crate::plan::HostHook;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Longest part of a hook's output that is kept for its error message, in bytes.
const MAX_OUTPUT: usize = 2048;

/// Runs hooks in order with the container's state on their standard input.
///
/// # Errors
/// The first failure; later hooks are not run.
pub fn run(phase: &'static str, hooks: &[HostHook], state: &str) -> Result<(), HostError> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, state).map_err(|reason| HostError::Hook {
            phase,
            index,
            path: hook.path.clone(),
            reason,
        })?;
    }
    Ok(())
}

/// Runs all hooks whatever happens, as the specification wants it for `poststop`; returns the failures.
pub fn run_all(phase: &'static str, hooks: &[HostHook], state: &str) -> Vec<HostError> {
    hooks.iter().filter_map(|hook| run(phase, std::slice::from_ref(hook), state).err()).collect()
}

fn run_one(hook: &HostHook, state: &str) -> Result<(), String> {
    let (mut child, output) = spawn(hook, state).map_err(|e| e.to_string())?;
    let deadline = hook.timeout_s.map(|s| Instant::now() + Duration::from_secs(u64::from(s)));
    let (said, in_time) = watch(&child, output, deadline).map_err(|e| e.to_string())?;
    if !in_time {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("did not end within {} s and was killed", hook.timeout_s.unwrap_or(0)));
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    Err(if said.is_empty() { how } else { format!("{how}: {said}") })
}

fn spawn(hook: &HostHook, state: &str) -> io::Result<(Child, File)> {
    let mut input = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    input.write_all(state.as_bytes())?;
    input.rewind()?;
    let (output, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().stdin(input).stdout(theirs.try_clone()?).stderr(theirs);
    for variable in &hook.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !name.is_empty() {
            command.env(name, value);
        }
    }
    Ok((command.spawn()?, File::from(output)))
}

/// Reads output until the hook has ended or the deadline has passed. A daemon that keeps the pipe open does not matter.
fn watch(child: &Child, mut output: File, deadline: Option<Instant>) -> io::Result<(Vec<u8>, bool)> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut said = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if left.is_some_and(|l| l.is_zero()) {
            return Ok((said, false));
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&output, PollFlags::IN));
        }
        let timeout = left.map(|l| rustix::time::Timespec {
            tv_sec: l.as_secs() as i64,
            tv_nsec: i64::from(l.subsec_nanos()),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let ended = !fds[0].revents().is_empty();
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            let mut part = [0; 4096];
            let count = output.read(&mut part)?;
            open = count > 0;
            said.extend_from_slice(&part[..count.min(MAX_OUTPUT - said.len().min(MAX_OUTPUT))]);
        } else if ended {
            return Ok((said, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout_s: Option<u32>) -> HostHook {
        let args = vec!["sh".into(), "-c".into(), script.into()];
        HostHook {
            path: "/bin/sh".into(),
            args,
            env: vec!["PATH=/bin:/usr/bin".into(), "A=b".into()],
            timeout_s,
        }
    }

    #[test]
    fn a_hook_gets_state_and_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        run(
            "prestart",
            &[shell(&format!("cat > {0}; echo $A$HOME >> {0}", out.display()), None)],
            "{\"id\":1}",
        )
        .unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "{\"id\":1}b\n");
    }

    #[test]
    fn a_failure_carries_status_and_words() {
        let error = run("prestart", &[shell("echo no disk >&2; exit 3", None)], "").unwrap_err().to_string();
        assert_eq!(error, "running prestart hook #0 /bin/sh: exit status 3: no disk");
    }

    #[test]
    fn a_hook_that_hangs_is_killed_at_its_deadline() {
        let error = run("poststart", &[shell("sleep 1000", Some(1))], "").unwrap_err().to_string();
        assert!(error.contains("did not end within 1 s"), "{error}");
    }

    #[test]
    fn a_daemon_left_behind_is_not_waited_for() {
        run("prestart", &[shell("sleep 3 & exit 0", None)], "").unwrap();
    }
}
