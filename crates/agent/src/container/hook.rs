//! Hooks: programs that run at a point of the container's life, with its state on their standard input.

use super::root::Root;
use crate::error::{Doing, Result, cut, failed};
use crate::sys::{self, Cloned, Image, SignalSet};
use guest_protocol::message::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};
use std::time::{Duration, Instant};

/// A hook without a timeout of its own is killed after this, so that nothing waits for ever.
const LONGEST: Duration = Duration::from_secs(600);

/// Most bytes of a hook's output that an error shows.
const SHOWN: usize = 1024;

/// Runs one hook to its end in the caller's namespaces, with `root` as its root if given.
///
/// # Errors
/// When it cannot be executed, fails, or exceeds its timeout: `error running <phase> hook #<number>: ...`.
pub fn run(hook: &Hook, phase: &str, number: usize, root: Option<&Root>) -> Result<()> {
    execute(hook, root).doing(|| format!("error running {phase} hook #{number}"))
}

fn execute(hook: &Hook, root: Option<&Root>) -> Result<()> {
    let args = if hook.args.is_empty() { std::slice::from_ref(&hook.path) } else { &hook.args[..] };
    let image = Image::new(&hook.path, args, &hook.env).doing(|| hook.path.clone())?;
    let input = memory_file(hook.state.as_bytes())?;
    let (output, errors, failure) = (memory_file(b"")?, memory_file(b"")?, memory_file(b"")?);
    match sys::clone_process(0, None).doing(|| "fork".into())? {
        Cloned::Child => {
            let error =
                become_hook([&input, &output, &errors], root).err().unwrap_or_else(|| image.execute());
            let _ = rustix::io::write(&failure, &error.raw_os_error().to_ne_bytes());
            sys::exit_now(127)
        }
        Cloned::Parent { pid, pidfd } => {
            let limit = hook.timeout_s.map_or(LONGEST, |s| Duration::from_secs(s.into()));
            let in_time = wait_until(&pidfd, Instant::now() + limit);
            if !in_time {
                let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            let status = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()))
                .doing(|| "wait for it".into())?;
            let Some((_, status)) = status else { return Err(failed("it vanished")) };
            let mut errno = [0; 4];
            if rustix::io::pread(&failure, &mut errno, 0) == Ok(4) {
                let errno = Errno::from_raw_os_error(i32::from_ne_bytes(errno));
                return Err(errno).doing(|| format!("exec {}", hook.path));
            }
            let end = match (status.exit_status(), status.terminating_signal()) {
                _ if !in_time => format!("it did not end within {} s", limit.as_secs()),
                (Some(0), _) => return Ok(()),
                (Some(code), _) => format!("exit status {code}"),
                (_, signal) => format!("signal {}", signal.unwrap_or(0)),
            };
            Err(failed(format!("{end}, stdout: {}, stderr: {}", start_of(&output), start_of(&errors))))
        }
    }
}

/// In the child, without allocating.
fn become_hook(files: [&OwnedFd; 3], root: Option<&Root>) -> rustix::io::Result<()> {
    for (file, number) in files.iter().zip(0..) {
        sys::put_at(file.as_fd(), number)?;
    }
    if let Some(root) = root {
        rustix::process::fchdir(root.as_fd())?;
        rustix::process::chroot(".")?;
    }
    sys::default_sigpipe();
    sys::block_signals(SignalSet::Empty);
    Ok(())
}

fn memory_file(content: &[u8]) -> Result<OwnedFd> {
    let what = || "make a file for its input or output".to_owned();
    let file = memfd_create("hook", MemfdFlags::CLOEXEC).doing(what)?;
    let mut rest = content;
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest).doing(what)?;
        rest = &rest[count..];
    }
    rustix::fs::seek(&file, SeekFrom::Start(0)).doing(what)?;
    // A small number could be overwritten while the standard files are put in place.
    if file.as_raw_fd() < 3 {
        return rustix::io::fcntl_dupfd_cloexec(&file, 3).doing(what);
    }
    Ok(file)
}

fn start_of(file: &OwnedFd) -> String {
    let mut buffer = vec![0; SHOWN];
    let count = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
    cut(String::from_utf8_lossy(&buffer[..count]).trim(), SHOWN).to_owned()
}

/// Waits until the process ends; false when the deadline passes first.
fn wait_until(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout_s: Option<u32>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["A=b".into()],
            timeout_s,
            state: "{\"id\":\"x\"}".into(),
        }
    }

    // The hooks are cloned from a test process with several threads, which is why their children only execute.
    #[test]
    fn a_hook_gets_the_state_and_only_its_environment() {
        let script = r#"read -r state; [ "$state" = '{"id":"x"}' ] && [ "$A" = b ] && [ -z "$HOME" ]"#;
        assert_eq!(run(&hook(script, None), "startContainer", 0, None), Ok(()));
    }

    #[test]
    fn a_failure_says_what_the_hook_said() {
        let error =
            run(&hook("echo out; echo err >&2; exit 3", None), "startContainer", 1, None).unwrap_err();
        let text = "error running startContainer hook #1: exit status 3, stdout: out, stderr: err";
        assert_eq!(error.message, text);
        let gone = Hook { path: "/no/such".into(), ..hook("", None) };
        let error = run(&gone, "createContainer", 0, None).unwrap_err();
        assert!(error.message.contains("exec /no/such: no such file or directory"), "{}", error.message);
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let error = run(&hook("exec sleep 1000", Some(0)), "createContainer", 0, None).unwrap_err();
        assert!(error.message.contains("did not end within 0 s"), "{}", error.message);
    }
}
