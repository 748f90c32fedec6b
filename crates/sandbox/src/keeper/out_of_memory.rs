//! Shows the host a lack of memory that was the guest's.
//!
//! Engines ask the control group of the pid that they know (`memory.oom_control` of v1, `memory.events` of v2) whether a process of the
//! container was killed for lack of memory. The guest's kernel has done that, so on the host nothing has happened. When the machine has
//! ended, it is made to happen: the group gets a small limit, and a process that is there for nothing else asks for more.
//!
//! ```text
//!   Event::OutOfMemory ─► state.oom_killed ─► machine ended ─► tighten ─► cor exhaust-memory ─► killed ─► keeper exits
//! ```

use crate::host::cgroup;
use crate::plan::{HostStep, SandboxPlan};
use host_check::facts::Cgroups;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How much more than it uses the group may use then, in bytes: enough for a program to begin.
const ROOM: u64 = 16 << 20;

/// How long the process may take to be killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What engines have to take note before they see the keeper's end: they are told by an event of its own.
const NOTICE: Duration = Duration::from_millis(20);

/// Has a process of the container's control group killed for lack of memory. Nobody can act on a failure: the engine says "killed" then
/// instead of "out of memory".
pub(super) fn show(plan: &SandboxPlan, cgroups: &Cgroups) {
    let group = plan.host.iter().find_map(|step| match step {
        HostStep::Cgroup { path, .. } => Some(path),
        _ => None,
    });
    let Some(limit) = group.and_then(|path| cgroup::tighten(cgroups, path, ROOM).ok().flatten()) else {
        return;
    };
    if run(limit).is_ok() {
        std::thread::sleep(NOTICE);
    }
}

fn run(limit: u64) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cor-keeper").arg("exhaust-memory").arg((limit + ROOM).to_string());
    let all = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = all.current_dir("/").spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        match Instant::now() {
            // One that cannot even be killed, as a frozen one of v1, is not waited for.
            now if now > deadline + PATIENCE => return Err(io::ErrorKind::TimedOut.into()),
            now if now > deadline => child.kill()?,
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Uses `bytes` of memory, as the first to be killed when there is not so much.
///
/// # Errors
/// When the kernel cannot be told that; then nothing is used.
pub fn exhaust(bytes: usize) -> io::Result<()> {
    // OOM_SCORE_ADJ_MAX of include/uapi/linux/oom.h
    std::fs::write("/proc/self/oom_score_adj", "1000")?;
    std::hint::black_box(vec![1u8; bytes]);
    Ok(())
}
