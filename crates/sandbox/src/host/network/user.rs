//! A network for a namespace that has none, without a right on the host: pasta(1) makes an interface in the namespace and turns what comes out
//! of it into connections of its own.
//!
//! ```text
//!   keeper ── life (a pipe), PR_SET_PDEATHSIG ─► guard: pid 1 of a PID namespace ─► pasta in the host's network ═ eth0 in the container's
//! ```
//!
//! pasta changes its credentials and may leave its parent as it likes; the kernel ends it with the guard all the same, because pid 1 of its PID
//! namespace is gone then. The guard waits for the keeper's word before it starts pasta: by then it is on the undo list.

use super::NetworkError;
use crate::bundle::text::one_line;
use crate::host::HostError;
use crate::host::undo::{self, Undo};
use crate::state::StateDir;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the interface is called.
const INTERFACE: &str = "eth0";

/// The container's address, its prefix and its router, none of which are the host's; pasta answers for the router and everything behind it.
const IPV4: [&str; 3] = ["10.0.2.15", "24", "10.0.2.2"];

/// The same for IPv6 (a unique local address of RFC 4193), which there is if the host has a default route of that family.
const IPV6: [&str; 2] = ["fdc1:ea00::15", "fe80::2"];

/// How long pasta may take until the interface is there.
const START: Duration = Duration::from_secs(20);

/// How long a process that was killed may take to be gone.
const END: Duration = Duration::from_secs(10);

/// Longest reason of pasta's that is kept.
const LONGEST_REASON: u64 = 4096;

/// A guard process, so that it can be told from one that got its number later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    pid: i32,
    /// Clock ticks from the boot of the host to its start (`starttime` of proc_pid_stat(5)).
    started: u64,
}

impl Guard {
    fn of(child: &Child) -> io::Result<Self> {
        let pid = child.id() as i32;
        Ok(Guard { pid, started: started(pid)? })
    }

    /// Ends it and all that it guards, and waits until they are gone. That they are gone already is no error.
    ///
    /// # Errors
    /// When they do not go away.
    pub fn end(&self) -> Result<(), NetworkError> {
        let failed = || {
            NetworkError::kernel::<io::Error>(format!("ending the user-space network, process {}", self.pid))
        };
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        // Behind the descriptor the process cannot change any more.
        if started(self.pid).ok() != Some(self.started) {
            return Ok(());
        }
        match pidfd_send_signal(&process, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            result => result.map_err(|e| failed()(e.into()))?,
        }
        // Pid 1 of a namespace ends after all others in it (pid_namespaces(7)).
        if !any_ready(&mut [PollFd::new(&process, PollFlags::IN)], END).map_err(failed())? {
            return Err(failed()(io::Error::from(io::ErrorKind::TimedOut)));
        }
        Ok(())
    }
}

/// When a process was started.
fn started(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may have anything in it; the state behind it is field 3, the start field 22.
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(22 - 3));
    field.and_then(|text| text.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether anything of it happens before the time is up.
fn any_ready(what: &mut [PollFd<'_>], patience: Duration) -> io::Result<bool> {
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(what, Some(&patience)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

/// A network that is there as long as this is, and the process that has it.
#[derive(Debug)]
pub struct UserNetwork {
    guard: Child,
    /// Its end is the guard's.
    life: PipeWriter,
    /// What pasta has to say. Nobody reads it later: the other end does not block.
    log: PipeReader,
}

/// How pasta is told what to work on, and says that it is done: in files, as it may close the descriptors that it is started with.
#[derive(Debug)]
struct Files {
    /// The container's network namespace, mounted in the keeper's mount namespace.
    namespace: PathBuf,
    /// A named pipe, into which pasta writes its pid when the interface is there.
    ready: PathBuf,
}

impl Files {
    /// For the calling thread's network namespace.
    fn make(dir: &StateDir) -> io::Result<Self> {
        let files = Files { namespace: dir.file("network"), ready: dir.file("network-ready") };
        drop(File::create(&files.namespace)?);
        mount_bind("/proc/thread-self/ns/net", &files.namespace)?;
        mknodat(CWD, &files.ready, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What is left goes with the keeper's mount namespace and the container's directory.
        let _ = unmount(&self.namespace, UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.namespace);
        let _ = fs::remove_file(&self.ready);
    }
}

impl UserNetwork {
    /// Gives the calling thread's network namespace an interface by `program`, whose connections are made in the namespace `outside`. It is on the
    /// container's undo list before that.
    ///
    /// # Errors
    /// When pasta cannot be started, or says why it cannot work.
    pub fn start(dir: &StateDir, program: &Path, outside: &File) -> Result<Self, HostError> {
        let failed = || HostError::call::<io::Error>("starting the user-space network");
        let files = Files::make(dir).map_err(failed())?;
        // Not blocking, or it would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let ready = open(&files.ready, flags, Mode::empty()).map_err(|e| failed()(e.into()))?;
        let mut network = UserNetwork::guarded(program, outside, &files).map_err(failed())?;
        let guard = Guard::of(&network.guard).map_err(failed())?;
        undo::note(dir, &Undo::UserNetwork(guard))?;
        network.life.write_all(b"+").map_err(failed())?;
        let process = pidfd_open(Pid::from_child(&network.guard), PidfdFlags::empty())
            .map_err(|e| failed()(e.into()))?;
        let mut ends = [PollFd::new(&ready, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
        if !any_ready(&mut ends, START).map_err(failed())? {
            let words = format!("it was not ready within {} s", START.as_secs());
            return Err(NetworkError::Pasta(words).into());
        }
        if !ends[0].revents().contains(PollFlags::IN) {
            return Err(NetworkError::Pasta(network.reason()).into());
        }
        Ok(network)
    }

    /// Starts the guard, which waits.
    fn guarded(program: &Path, outside: &File, files: &Files) -> io::Result<Self> {
        let (wait, life) = io::pipe()?;
        let (log, say) = io::pipe()?;
        rustix::io::ioctl_fionbio(&say, true)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cor-network").arg("user-network").arg("--namespace").arg(&files.namespace);
        command.arg("--ready").arg(&files.ready).arg(program);
        command.stdin(wait).stdout(Stdio::null()).stderr(say).current_dir("/");
        die_with_the_keeper(&mut command, outside.as_raw_fd());
        Ok(UserNetwork { guard: spawn_as_first(&mut command)?, life, log })
    }

    /// Why pasta has ended.
    fn reason(&mut self) -> String {
        let _ = self.guard.wait();
        let mut text = Vec::new();
        let _ = self.log.by_ref().take(LONGEST_REASON).read_to_end(&mut text);
        reason(&String::from_utf8_lossy(&text))
    }
}

impl Drop for UserNetwork {
    fn drop(&mut self) {
        // Its number is nobody else's before we have waited.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// One line of what pasta has said, without what says only that there is no log of the system.
fn reason(log: &str) -> String {
    let lines = log.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("syslog"));
    let all = lines.map(one_line).collect::<Vec<_>>().join("; ");
    if all.is_empty() { "it has ended without a word".into() } else { all }
}

/// Starts a process that is the first one of a PID namespace of its own; this thread's later children are not in there.
#[expect(unsafe_code, reason = "unshare is unsafe only for CLONE_FILES, which is not used")]
fn spawn_as_first(command: &mut Command) -> io::Result<Child> {
    let ours = File::open("/proc/thread-self/ns/pid")?;
    // SAFETY: a new PID namespace does not share or close file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
    let child = command.spawn();
    move_into_link_name_space(ours.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    child
}

/// Puts a process into the network namespace `outside`, and ends it with the thread that starts it.
#[expect(unsafe_code, reason = "pre_exec runs raw system calls between fork and exec")]
fn die_with_the_keeper(command: &mut Command, outside: RawFd) {
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: the closure makes only async-signal-safe system calls and allocates nothing. A keeper that died before the first one took
    // effect is seen by the end of the pipe.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            check(libc::setns(outside, libc::CLONE_NEWNET))
        });
    }
}

/// What the guard process is started with.
#[derive(Debug)]
pub struct Duty {
    /// pasta.
    pub program: PathBuf,
    /// The container's network namespace, as a file.
    pub namespace: PathBuf,
    /// Where pasta writes that it is done.
    pub ready: PathBuf,
}

/// The guard's whole life: waits for the keeper's word on standard input, then for its end or pasta's.
///
/// # Errors
/// When pasta cannot be started.
pub fn guard(duty: &Duty) -> io::Result<()> {
    let life = io::stdin();
    let mut word = [0];
    if rustix::io::read(&life, &mut word)? == 0 {
        return Ok(());
    }
    let mut command = Command::new(&duty.program);
    let mut pasta =
        command.args(arguments(duty)).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let process = pidfd_open(Pid::from_child(&pasta), PidfdFlags::empty())?;
    let mut ends = [PollFd::new(&life, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
    while matches!(poll(&mut ends, None), Err(rustix::io::Errno::INTR)) {}
    let _ = pasta.kill();
    pasta.wait().map(drop)
}

/// What pasta is told: nothing comes in, the router is not the host's loopback, and it stays a child.
fn arguments(duty: &Duty) -> Vec<OsString> {
    let [address, prefix, router] = IPV4;
    let [address6, router6] = IPV6;
    let words = ["--foreground", "--quiet", "--runas", "0", "--config-net", "--no-map-gw", "--no-netns-quit"];
    let ports = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"];
    let addresses =
        ["-I", INTERFACE, "-a", address, "-n", prefix, "-g", router, "-a", address6, "-g", router6];
    let mut all: Vec<OsString> =
        [&words[..], &ports, &addresses].concat().into_iter().map(OsString::from).collect();
    for (option, path) in [("--netns", &duty.namespace), ("--pid", &duty.ready)] {
        all.extend([option.into(), path.into()]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn the_host_is_not_offered_and_nothing_comes_in() {
        let duty = Duty { program: "/usr/bin/pasta".into(), namespace: "/n".into(), ready: "/r".into() };
        let line = arguments(&duty).join(OsStr::new(" ")).into_string().unwrap();
        for words in ["--no-map-gw", "-t none -u none -T none -U none", "--netns /n", "--pid /r"] {
            assert!(line.contains(words), "{words} in {line}");
        }
    }

    #[test]
    fn what_pasta_says_is_one_line() {
        let log = "Failed to send 46 bytes to syslog\nNo external routable interface for IPv4\nExternal interface not usable\n";
        assert_eq!(reason(log), "No external routable interface for IPv4; External interface not usable");
        assert_eq!(reason("\n"), "it has ended without a word");
    }

    #[test]
    fn a_guard_is_told_from_another_process_with_its_number() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let guard = Guard::of(&child).unwrap();
        Guard { started: guard.started + 1, ..guard.clone() }.end().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "another process is left alone");
        guard.end().unwrap();
        assert!(!child.wait().unwrap().success());
        guard.end().unwrap();
    }
}
