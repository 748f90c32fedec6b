//! The five operations of the OCI runtime specification, as `cor` and the shim call them.
//!
//! ```text
//!   create: directory + lock ─► plan.json ─► keeper ─► Namespaces ─► hooks ─► go on ─► Created ─► pid file
//!   start:  keeper Start ─► poststart hooks
//!   kill:   keeper Kill
//!   delete: (force: end the keeper) ─► undo list ─► poststop hooks ─► directory removed
//! ```

use crate::client::{self, ClientError};
use crate::host::{HostError, hooks, undo};
use crate::keeper::protocol::{Progress, Request};
use crate::plan::SandboxPlan;
use crate::state::{Container, StateDir, StateError, StateFile, Status, write_atomically};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, waitpid};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Version of the runtime specification that states and `features` name.
pub const OCI_VERSION: &str = "1.3.0";

/// How long a keeper that was killed may take to be gone.
const KEEPER_END: Duration = Duration::from_secs(20);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The container's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The keeper or the guest.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The keeper could not make the container.
    #[error("{phase}: {message}")]
    Create {
        /// What was being done.
        phase: String,
        /// Why it failed.
        message: String,
    },
    /// A file or process of this command.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why.
        source: io::Error,
    },
    /// Not root of the host.
    #[error(
        "rootless containers are not supported yet: making network devices and control groups takes root of the host; run this, or the engine that calls it, as root (sudo)"
    )]
    Rootless,
    /// Wrong state for the operation.
    #[error("cannot {operation} container {id:?} that is {status}{hint}")]
    WrongState {
        /// What was asked for.
        operation: &'static str,
        /// The container.
        id: String,
        /// How it stands.
        status: Status,
        /// What to do.
        hint: &'static str,
    },
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LifecycleError {
    let doing = doing.into();
    move |source| LifecycleError::Io { doing, source }
}

/// What `create` needs besides the plan.
#[derive(Debug)]
pub struct Create<'a> {
    /// The container's directory; must not exist.
    pub dir: StateDir,
    /// The plan.
    pub plan: SandboxPlan,
    /// Connected socket that gets the terminal's master.
    pub console: Option<OwnedFd>,
    /// File for the container's pid.
    pub pid_file: Option<&'a Path>,
    /// When the user's command began ([`crate::keeper::timeline::now_us`]).
    pub start_us: u64,
}

/// Makes a container. Standard input, output and error of this process become the container's. Returns the keeper's pid,
/// which is a child of this process.
///
/// # Errors
/// When anything of it fails; then nothing is left.
pub fn create(create: Create<'_>) -> Result<u32, LifecycleError> {
    let Create { dir, plan, console, pid_file, start_us } = create;
    if !is_root_of_host() {
        return Err(LifecycleError::Rootless);
    }
    let lock = dir.create()?;
    let result = launch(&dir, &plan, lock, console, start_us).and_then(|(pid, status)| {
        let made = hooks_and_pid_file(&dir, &plan, pid, status, pid_file);
        if made.is_err() {
            end_child(pid);
        }
        made.map(|()| pid)
    });
    if result.is_err() {
        let state = failed_state(&dir, &plan);
        let _ = undo::run(&dir);
        let _ = hooks::run_all("poststop", &plan.hooks.poststop, &state);
        let _ = dir.remove();
    }
    result
}

/// Whether this process is root, and not only that of a user namespace, as under a rootless engine.
fn is_root_of_host() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // user_namespaces(7): the initial namespace maps all ids to themselves.
    let initial = map.is_empty() || map.split_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root() && initial
}

/// State for the poststop hooks of a container that never came to be.
fn failed_state(dir: &StateDir, plan: &SandboxPlan) -> String {
    match dir.load() {
        Ok(container) => hook_state(&container.file, "stopped"),
        Err(_) => {
            json!({"ociVersion": OCI_VERSION, "id": plan.id, "status": "stopped", "bundle": plan.bundle})
                .to_string()
        }
    }
}

/// Starts the keeper.
fn launch(
    dir: &StateDir,
    plan: &SandboxPlan,
    lock: File,
    console: Option<OwnedFd>,
    start_us: u64,
) -> Result<(u32, UnixStream), LifecycleError> {
    let text = serde_json::to_vec(plan).map_err(|e| io_error("writing the plan")(e.into()))?;
    dir.write("plan.json", &text)?;
    let plan_file = File::open(dir.file("plan.json")).map_err(io_error("reading the plan"))?;
    let (status, keeper_status) = UnixStream::pair().map_err(io_error("starting the keeper"))?;
    let mut donated = vec![plan_file.as_raw_fd(), keeper_status.as_raw_fd(), lock.as_raw_fd()];
    donated.extend(console.as_ref().map(AsRawFd::as_raw_fd));
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cor-keeper").arg("keeper").arg("--root").arg(dir.root());
    command.arg("--start").arg(start_us.to_string());
    for (name, fd) in ["--plan", "--status", "--lock", "--console"].iter().zip(&donated) {
        command.arg(name).arg(fd.to_string());
    }
    command.arg(dir.id()).current_dir("/");
    inherit(&mut command, donated);
    let child = command.spawn().map_err(io_error("starting the keeper"))?;
    Ok((child.id(), status))
}

/// Lets descriptors keep their numbers in the new process.
#[expect(unsafe_code, reason = "pre_exec changes descriptor flags between fork and exec")]
fn inherit(command: &mut Command, fds: Vec<i32>) {
    // SAFETY: fcntl is async-signal-safe and the closure allocates nothing.
    unsafe {
        command.pre_exec(move || {
            for fd in &fds {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Follows the keeper until the container is created.
fn hooks_and_pid_file(
    dir: &StateDir,
    plan: &SandboxPlan,
    pid: u32,
    status: UnixStream,
    pid_file: Option<&Path>,
) -> Result<(), LifecycleError> {
    let mut go_on = status.try_clone().map_err(io_error("starting the keeper"))?;
    let mut lines = BufReader::new(status).lines();
    loop {
        // The keeper bounds every wait of its own; that it died shows as end of file.
        let line = lines.next().transpose().map_err(io_error("waiting for the keeper"))?;
        let progress = line.map(|line| serde_json::from_str(&line)).transpose();
        match progress.map_err(|e| io_error("waiting for the keeper")(e.into()))? {
            Some(Progress::Namespaces) => {
                run_create_hooks(dir, plan)?;
                go_on.write_all(b"+").map_err(io_error("waiting for the keeper"))?;
            }
            Some(Progress::Created) => break,
            Some(Progress::Failed { phase, message }) => {
                return Err(LifecycleError::Create { phase, message });
            }
            None => {
                let message = format!("the keeper ended without a word{}", how_it_ended(pid));
                return Err(LifecycleError::Create { phase: "creating the container".into(), message });
            }
        }
    }
    if let Some(path) = pid_file {
        write_pid_file(path, pid)?;
    }
    Ok(())
}

/// Writes a pid file so that readers never see a part of it.
///
/// # Errors
/// When it cannot be written.
pub fn write_pid_file(path: &Path, pid: u32) -> Result<(), LifecycleError> {
    write_atomically(path, pid.to_string().as_bytes())
        .map_err(io_error(format!("writing pid file {}", path.display())))
}

fn run_create_hooks(dir: &StateDir, plan: &SandboxPlan) -> Result<(), LifecycleError> {
    if plan.hooks.prestart.is_empty() && plan.hooks.create_runtime.is_empty() {
        return Ok(());
    }
    let state = hook_state(&dir.load()?.file, "creating");
    hooks::run("prestart", &plan.hooks.prestart, &state)?;
    hooks::run("createRuntime", &plan.hooks.create_runtime, &state)?;
    Ok(())
}

fn how_it_ended(pid: u32) -> String {
    let status = Pid::from_raw(pid as i32)
        .and_then(|pid| waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok())
        .flatten();
    match status.and_then(|(_, status)| status.terminating_signal()) {
        Some(signal) => format!(" (signal {signal})"),
        None => String::new(),
    }
}

/// Ends a keeper that is this process's child, and its VMM with it.
fn end_child(pid: u32) {
    let Some(pid) = Pid::from_raw(pid as i32) else { return };
    // After its own failure it ends by itself; the signal shortens the way when a hook or the pid file failed.
    let _ = kill_process(pid, Signal::KILL);
    let _ = waitpid(Some(pid), rustix::process::WaitOptions::empty());
}

/// Runs the program of a created container.
///
/// # Errors
/// When the container is in another state, the program cannot be executed, or a poststart hook fails; then the container is
/// ended, as the specification wants it.
pub fn start(dir: &StateDir) -> Result<(), LifecycleError> {
    let container = dir.load()?;
    match container.status() {
        Status::Created => {}
        Status::Stopped => return Err(wrong_state("start", &container, "; delete it and create it again")),
        Status::Creating => return Err(wrong_state("start", &container, "; wait until `create` has ended")),
        Status::Running | Status::Paused => return Err(wrong_state("start", &container, " already")),
    }
    client::command(dir, &Request::Start)?;
    let plan = read_plan(dir)?;
    if !plan.hooks.poststart.is_empty() {
        let state = hook_state(&container.file, "running");
        if let Err(error) = hooks::run("poststart", &plan.hooks.poststart, &state) {
            let _ = client::command(dir, &Request::Kill { signal: libc::SIGKILL, all: true });
            return Err(error.into());
        }
    }
    Ok(())
}

fn wrong_state(operation: &'static str, container: &Container, hint: &'static str) -> LifecycleError {
    LifecycleError::WrongState { operation, id: container.file.id.clone(), status: container.status(), hint }
}

/// Reads the plan with which a container was created.
///
/// # Errors
/// When it cannot be read.
pub fn read_plan(dir: &StateDir) -> Result<SandboxPlan, LifecycleError> {
    let path = dir.file("plan.json");
    let doing = format!("reading {}", path.display());
    let text = fs::read(path).map_err(io_error(doing.clone()))?;
    serde_json::from_slice(&text).map_err(|e| io_error(doing)(e.into()))
}

/// Sends a signal to a container's program, or to all its processes.
///
/// # Errors
/// When the container is not running.
pub fn kill(dir: &StateDir, signal: i32, all: bool) -> Result<(), LifecycleError> {
    let container = dir.load()?;
    if container.status() == Status::Stopped {
        // runc: `kill --all` of a stopped container is no error.
        return if all { Ok(()) } else { Err(ClientError::NotRunning.into()) };
    }
    Ok(client::command(dir, &Request::Kill { signal, all })?)
}

/// Removes a container that has stopped, or was never started; with `force` one in any state, and a missing one is no error.
/// Returns sentences about hooks that failed: they do not keep a container from being removed.
///
/// # Errors
/// When the container is in another state, or something of it does not go away.
pub fn delete(dir: &StateDir, force: bool) -> Result<Vec<String>, LifecycleError> {
    let container = match dir.load() {
        Ok(container) => Some(container),
        Err(StateError::NotFound(_)) if force && !dir.exists() => return Ok(Vec::new()),
        // Killed before its first state was written, or a state that cannot be read.
        Err(_) if force && dir.exists() => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(container) = &container {
        match container.status() {
            Status::Stopped => {}
            // containerd deletes a task that was never started without force.
            Status::Created => end_keeper(dir, container)?,
            _ if force => end_keeper(dir, container)?,
            _ => return Err(wrong_state("delete", container, "; stop it first or use --force")),
        }
    }
    wait_for_lock(dir)?;
    let plan = read_plan(dir);
    undo::run(dir)?;
    let state = container.map(|c| hook_state(&c.file, "stopped"));
    dir.remove()?;
    let failures = match (plan, state) {
        (Ok(plan), Some(state)) => hooks::run_all("poststop", &plan.hooks.poststop, &state),
        _ => Vec::new(),
    };
    Ok(failures.iter().map(ToString::to_string).collect())
}

/// Kills a keeper; its VMM dies with it.
fn end_keeper(dir: &StateDir, container: &Container) -> Result<(), LifecycleError> {
    let Some(pid) = Pid::from_raw(container.file.pid as i32) else { return Ok(()) };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    // The pid may belong to another process by now, unless the lock is still held.
    if dir.has_keeper() {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    }
    Ok(())
}

/// Waits until no keeper holds the lock.
fn wait_for_lock(dir: &StateDir) -> Result<(), LifecycleError> {
    let deadline = Instant::now() + KEEPER_END;
    while dir.has_keeper() {
        if Instant::now() >= deadline {
            let source = io::Error::other(format!("it did not end within {} s", KEEPER_END.as_secs()));
            return Err(io_error("ending the container's keeper")(source));
        }
        // flock(2) has no deadline; the wait is some milliseconds, after a kill only.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The OCI state of a container, as hooks and `state` get it.
pub fn hook_state(state: &StateFile, status: &str) -> String {
    let pid = if status == "stopped" { 0 } else { state.pid };
    json!({
        "ociVersion": OCI_VERSION,
        "id": state.id,
        "status": status,
        "pid": pid,
        "bundle": state.bundle,
        "annotations": state.annotations,
    })
    .to_string()
}
