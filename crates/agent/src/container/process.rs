//! The last part of a process's preparation, the same for a container's own and for an exec'd one: from root in the
//! container's namespaces to the program.
//!
//! ```text
//!   become_user ─► find the program ─► Ready ─► wait for START ─► hooks ─► seccomp ─► last capabilities ─► execve
//!                                        agent: rlimits, oom score, scheduling (they need the machine's root)
//! ```

use super::capabilities::{self, Plan};
use super::hook;
use super::lookup::{self, OwnFiles};
use super::passwd;
use super::root::Root;
use super::status::{ChildEnd, START};
use crate::error::{Doing, Result, cause, failed};
use crate::sys::{self, Image, SignalSet};
use guest_protocol::message::{Hook, Process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::convert::Infallible;

/// Everything from here to the program. Returns only when it fails.
///
/// # Errors
/// What failed, in runc's words where engines look for them.
pub fn run(process: &Process, start_hooks: &[&Hook], status: &ChildEnd) -> Result<Infallible> {
    let env = environment(process)?;
    let plan = become_user(process, status)?;
    let name = process.args.first().ok_or_else(|| failed("no program given"))?;
    let program = lookup::find(name, &env, &OwnFiles)?;
    let image =
        Image::new(&program, &process.args, &env).doing(|| "prepare arguments and environment".into())?;
    let what = || "tell the agent".to_owned();
    // From before the host knows of the process: none of its signals may get lost.
    sys::block_signals(SignalSet::Full);
    status.ready().doing(what)?;
    wait_for_start(status)?;
    for (number, hook) in start_hooks.iter().enumerate() {
        hook::run(hook, "startContainer", number, None)?;
    }
    if let Some(seccomp) = &process.seccomp {
        sys::set_seccomp_filter(seccomp.flags, &seccomp.program)
            .doing(|| "error initializing seccomp".into())?;
    }
    plan.apply_last()?;
    status.executing().doing(what)?;
    Err(lookup::execute_error(&program, image.execute()))
}

fn environment(process: &Process) -> Result<Vec<String>> {
    let mut env = process.env.clone();
    if !env.iter().any(|v| v.starts_with("HOME=") && v.len() > 5) {
        env.retain(|v| !v.starts_with("HOME="));
        env.push(format!("HOME={}", passwd::home(&Root::at("/")?, process.uid)));
    }
    Ok(env)
}

/// User, capabilities, working directory. Afterwards no file but the standard files and `status` is open.
fn become_user(process: &Process, status: &ChildEnd) -> Result<Plan> {
    if let Some(personality) = process.personality {
        sys::set_personality(personality).doing(|| "set the personality".into())?;
    }
    let known = capabilities::known();
    let plan = capabilities::plan(process, known);
    sys::close_all_except(&mut [0, 1, 2, status.as_fd().as_raw_fd()]);
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).doing(|| "set no_new_privs".into())?;
    }
    let early = rustix::process::chdir(process.cwd.as_str());
    plan.drop_bounding(known)?;
    sys::set_groups(&process.additional_gids).doing(|| "set supplementary groups".into())?;
    sys::set_ids(process.uid, process.gid).doing(|| format!("set user {}:{}", process.uid, process.gid))?;
    plan.apply_held()?;
    if early.is_err() {
        // Where root may not go, the user may, for example on a file system of the user's own.
        rustix::process::chdir(process.cwd.as_str())
            .doing(|| format!("chdir to cwd ({:?}) set in config.json failed", process.cwd))?;
    }
    verify_cwd(&process.cwd)?;
    rustix::process::umask(Mode::from_raw_mode(process.umask.unwrap_or(0o022)));
    Ok(plan)
}

/// A working directory that was reached through a leaked descriptor lies outside of the root.
fn verify_cwd(cwd: &str) -> Result<()> {
    let inside = match rustix::process::getcwd(Vec::new()) {
        Ok(path) => path.to_bytes().starts_with(b"/"),
        Err(Errno::NOENT) => false,
        Err(e) => return Err(e).doing(|| "look at the working directory".into()),
    };
    if inside {
        return Ok(());
    }
    Err(failed(format!("chdir to cwd ({cwd:?}) failed: it is outside of the container's root")))
}

/// Waits for [`START`], with all signals blocked. Like a program without handlers would, it ends on a signal that ends
/// programs: as first process of a pid namespace the kernel itself would ignore it.
fn wait_for_start(status: &ChildEnd) -> Result<()> {
    let what = || "wait for the start".to_owned();
    let signals = sys::signal_fd(SignalSet::Full).doing(what)?;
    loop {
        let mut fds = [PollFd::new(status, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(failed(format!("{}: {}", what(), cause(e)))),
        }
        let told = !fds[0].revents().is_empty();
        while let Some(signal) = sys::next_signal(&signals) {
            if ends_a_program(signal) {
                sys::exit_now(128 + signal);
            }
        }
        if told {
            match status.word().doing(what)? {
                Some(START) => break,
                Some(_) => {}
                None => sys::exit_now(1),
            }
        }
    }
    drop(signals);
    sys::default_sigpipe();
    sys::block_signals(SignalSet::Empty);
    Ok(())
}

fn ends_a_program(signal: i32) -> bool {
    let harmless = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    !harmless.contains(&signal)
}
