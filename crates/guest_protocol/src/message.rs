//! The messages on the control stream.
//!
//! ```text
//!   agent                               keeper
//!     Hello ─────────────────────────►   version and boot stamps, once
//!     ◄───────────────────────── Request{id, Interfaces}   once they are known; again when that changes
//!     ◄───────────────────────── Request{id, Setup}    all guest steps of a container, in order
//!     Reply{id, Done} ───────────────►
//!     ◄───────────────────────── Request{id, Start | Exec | Signal | ...}
//!     Reply{id, ..} ─────────────────►
//!     Event(Exited{..}) ─────────────►   once per process, after its output streams were opened
//! ```
//!
//! The host resolves everything that can be resolved without the guest (names to numbers, options to flags, a
//! seccomp policy to its BPF program), so the agent stays small and this file holds plain numbers whose source
//! is named. Paths are those of the container unless said otherwise.

use crate::network::Interface;
use serde::{Deserialize, Serialize};

/// Any message of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAgent {
    /// First message: the agent is ready for requests.
    Hello(Hello),
    /// Answer to the request with the same id. Answers may come in any order.
    Reply {
        /// [`Request::id`].
        id: u32,
        /// What came of it.
        result: Result<Reply, AgentError>,
    },
    /// Something that happened by itself.
    Event(Event),
}

/// The agent's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] of the agent. Stays the first field for ever.
    pub version: u32,
    /// The agent's release, for people.
    pub agent: String,
    /// `uname -r` of the guest.
    pub kernel: String,
    /// When things happened in the guest, in order.
    pub stamps: Vec<Stamp>,
}

/// A moment of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// For example `init` or `modules`.
    pub name: String,
    /// CLOCK_BOOTTIME in microseconds: since the guest kernel started its clock.
    pub boottime_us: u64,
}

/// A request of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host, unique on this connection.
    pub id: u32,
    /// What to do.
    pub body: RequestBody,
}

/// What the host can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Prepare the machine and a container up to the point before its program is executed. Reply: [`Reply::Created`].
    Setup(Box<Setup>),
    /// Execute the program of a container that was set up. Replies when `execve` has succeeded. Reply: [`Reply::Done`].
    Start {
        /// Container id.
        container: String,
    },
    /// Run one more process in a started (or created) container. Reply: [`Reply::Created`], after `execve` has succeeded.
    Exec {
        /// Container id.
        container: String,
        /// Chosen by the host, unique on this connection; names the process from now on.
        process_id: u32,
        /// The process.
        process: Box<Process>,
    },
    /// Send a signal. Reply: [`Reply::Done`]; [`ErrorKind::NotRunning`] when the process has ended.
    Signal {
        /// Container id.
        container: String,
        /// Process, [`INIT_PROCESS`] for the container's own.
        process_id: u32,
        /// Signal number of Linux on the guest's architecture.
        signal: i32,
        /// Send it to every process of the container.
        all: bool,
    },
    /// Set a terminal's size. Reply: [`Reply::Done`].
    Resize {
        /// Container id.
        container: String,
        /// Process.
        process_id: u32,
        /// The new size.
        size: TerminalSize,
    },
    /// List the processes of a container. Reply: [`Reply::Processes`].
    Processes {
        /// Container id.
        container: String,
    },
    /// Read the container's resource usage. Reply: [`Reply::Statistics`].
    Statistics {
        /// Container id.
        container: String,
    },
    /// Change the container's limits; `None` leaves one as it is. Reply: [`Reply::Done`].
    Update {
        /// Container id.
        container: String,
        /// The new limits.
        limits: Box<CgroupLimits>,
    },
    /// Have these network interfaces besides loopback, set up as they say; those that are set up so already stay as they are.
    /// Network devices that none of them names are put away. Reply: [`Reply::Done`].
    Interfaces(Vec<Interface>),
    /// From now on take the machine's questions to [`crate::names::SERVER`] to the host. Reply: [`Reply::Done`].
    NameService,
    /// Write back all file systems, end the control stream, and wait for the host to cut the power. No reply.
    Shutdown,
}

/// `process_id` of the program that `Start` executes.
pub const INIT_PROCESS: u32 = 0;

/// What the guest needs to know for one container, as steps in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Time since the Unix epoch on the host, in nanoseconds; the guest sets its clock to it. 0 leaves the clock alone.
    pub wall_clock_ns: u64,
    /// Random bytes of the host for the guest's pool.
    pub entropy: Vec<u8>,
    /// Container id.
    pub container: String,
    /// In the order in which they are to be done. Each kind says who does it.
    pub steps: Vec<Step>,
}

/// One thing to do in the guest.
///
/// *Agent* steps are done by PID 1 in the machine's own namespaces, *container* steps by the container's first process in its
/// new namespaces: those marked "before" while the machine's file systems are still visible, those marked
/// "after" with the container's root as root. Within each of the three groups the order is that of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Agent: mount a shared directory at `/run/clear/share/<tag>` of the machine.
    Share(Share),
    /// Agent: mount a block or pmem device's file system at `/run/clear/disk/<serial>` of the machine.
    Disk(Disk),
    /// Agent: a block device of the host is a disk of the machine; what else names the host's device means that disk.
    HostDisk(HostDisk),
    /// Agent: set a sysctl that belongs to the machine, not to a namespace (`net.*`, `vm.*`, `fs.*`). Path below /proc/sys, with slashes.
    MachineSysctl {
        /// For example `net/ipv4/ip_forward`.
        path: String,
        /// What to write.
        value: String,
    },
    /// Agent: create the container's cgroup with these limits.
    Cgroup(Box<CgroupLimits>),
    /// Agent: clone the container's first process with these namespaces. Exactly one.
    Namespaces(Namespaces),
    /// Before: the directory that becomes the root. Exactly one, ahead of every mount.
    Rootfs(Rootfs),
    /// Before: a mount inside the root.
    Mount(Mount),
    /// Before: a device node inside the root (by mknod, or by bind mount in a user namespace).
    Device(Device),
    /// Before: a symbolic link inside the root; an existing one is kept.
    Symlink {
        /// What it points to.
        target: String,
        /// Absolute path in the container.
        path: String,
    },
    /// Before: run a createContainer hook.
    CreateHook(Hook),
    /// After: set the host name.
    Hostname(String),
    /// After: set the domain name.
    Domainname(String),
    /// After: a sysctl of one of the container's namespaces. Path below /proc/sys, with slashes.
    Sysctl {
        /// For example `kernel/msgmax`.
        path: String,
        /// What to write.
        value: String,
    },
    /// After: hide a path; a missing one is skipped.
    MaskedPath(String),
    /// After: make a path read-only; a missing one is skipped.
    ReadonlyPath(String),
    /// After: make the root read-only.
    ReadonlyRoot,
    /// After: run a startContainer hook when `Start` comes.
    StartHook(Hook),
    /// After: the container's own process. Exactly one, last.
    Process(Box<Process>),
}

/// A shared directory of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Tag of the device.
    pub tag: String,
    /// How the machine carries it.
    pub transport: ShareTransport,
}

/// Which file system reaches a shared directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareTransport {
    /// 9P2000.L over virtio.
    NineP,
    /// virtio-fs.
    Virtiofs,
}

/// A file system on a disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Serial of the device.
    pub serial: String,
    /// For example `ext4` or `erofs`.
    pub fstype: String,
    /// Mounted read-only.
    pub readonly: bool,
    /// File system options, comma separated.
    pub data: String,
}

/// A block device of the host that the machine has as a disk. The machine's kernel numbers it as it likes, so [`Step::Device`] and
/// the rules of [`Step::Cgroup`] name it by the host's numbers, and the agent puts the machine's in their place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDisk {
    /// Serial of the disk in the machine.
    pub serial: String,
    /// Major number on the host.
    pub major: u32,
    /// Minor number on the host.
    pub minor: u32,
}

/// Where something comes from, as seen by the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// `path` (relative, no `..`) below the share with this tag; `.` is the share itself.
    Share {
        /// Tag of the share.
        tag: String,
        /// Path below it.
        path: String,
    },
    /// `path` below the file system of the disk with this serial.
    Disk {
        /// Serial of the disk.
        serial: String,
        /// Path below it.
        path: String,
    },
    /// The block device node of the disk with this serial, itself.
    DiskNode {
        /// Serial of the disk.
        serial: String,
    },
    /// A path of the machine's own root file system.
    Machine(String),
    /// Not a path: the `source` argument of mount(2) for a virtual file system.
    Virtual(String),
}

/// Which namespaces the container gets. Mount, pid, ipc, uts and cgroup are always its own; the network is the machine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// A new user namespace with these maps.
    pub user: Option<UserNamespace>,
    /// Offsets for a new time namespace: (clock id of Linux, seconds, nanoseconds). Empty: the machine's.
    pub time_offsets: Vec<(i32, i64, u32)>,
}

/// Maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// For `/proc/PID/uid_map`.
    pub uid_map: Vec<IdMap>,
    /// For `/proc/PID/gid_map`.
    pub gid_map: Vec<IdMap>,
}

/// One range of a user namespace's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id outside (of the machine, which for shared directories is the host's).
    pub outside: u32,
    /// Length of the range.
    pub count: u32,
}

/// The container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// The directory.
    pub source: Source,
    /// Propagation of the root mount: one of the MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE flags, with MS_REC.
    pub propagation: u64,
}

/// A mount in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted. A share or machine path is a bind mount, of a directory or a single file.
    pub source: Source,
    /// Absolute path in the container; created if missing.
    pub destination: String,
    /// File system type, empty for a bind.
    pub fstype: String,
    /// MS_* flags of mount(2) (`include/uapi/linux/mount.h`), without propagation.
    pub flags: u64,
    /// File system options, comma separated.
    pub data: String,
    /// Propagation changes after the mount, each MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE, maybe with MS_REC.
    pub propagation: Vec<u64>,
    /// Recursive attributes for mount_setattr(2) with AT_RECURSIVE: (MOUNT_ATTR_* to set, to clear).
    pub recursive: Option<(u64, u64)>,
    /// Copy what the destination holds into the new tmpfs.
    pub copy_up: bool,
    /// Id-mapped mount with these maps.
    pub id_map: Option<UserNamespace>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path in the container.
    pub path: String,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number (0 for a FIFO).
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits, for example 0o666.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What to do when the machine's kernel has no such device.
    pub if_absent: IfAbsent,
}

/// What becomes of a device node behind which there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfAbsent {
    /// It is made without a look: the device is always there, or nothing may open it.
    Make,
    /// It is left out.
    LeaveOut,
    /// The container is refused.
    Refuse,
}

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
}

/// A hook that runs in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Program, absolute: of the container for [`Step::StartHook`] and for [`Step::CreateHook`] alike.
    pub path: String,
    /// Arguments with `args[0]`; empty means just `path`.
    pub args: Vec<String>,
    /// Environment, `K=V`.
    pub env: Vec<String>,
    /// Seconds after which it is killed and counts as failed.
    pub timeout_s: Option<u32>,
    /// The OCI state, JSON, for its standard input.
    pub state: String,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `K=V`. HOME is added from the container's /etc/passwd if missing.
    pub env: Vec<String>,
    /// Working directory, absolute; created if missing for the container's own process, as runc does.
    pub cwd: String,
    /// Runs on a new terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// File mode mask, the kernel's 0o022 if `None`.
    pub umask: Option<u32>,
    /// Capability sets; `None` leaves them all to root, none to others.
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Sets PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// Written to /proc/self/oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// System call filter.
    pub seccomp: Option<Seccomp>,
    /// IO priority: class and level of ioprio_set(2).
    pub io_priority: Option<(u8, u8)>,
    /// CPU scheduling.
    pub scheduler: Option<Scheduler>,
    /// Personality of personality(2).
    pub personality: Option<u32>,
    /// Streams of the standard files.
    pub io: Io,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows; 0 for unknown.
    pub rows: u16,
    /// Columns; 0 for unknown.
    pub columns: u16,
}

/// Sets of capabilities, bit n for capability n of `include/uapi/linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the five sets of capabilities(7)")]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// RLIMIT_* of `include/uapi/asm-generic/resource.h`.
    pub resource: u32,
    /// Soft limit; `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` for none.
    pub hard: u64,
}

/// A compiled system call filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// SECCOMP_FILTER_FLAG_* for seccomp(2).
    pub flags: u32,
    /// `struct sock_filter` as (code, jt, jf, k); at most 4096 (BPF_MAXINSNS).
    pub program: Vec<(u16, u8, u8, u32)>,
}

/// Arguments of sched_setattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of struct sched_attr, see sched_setattr(2)")]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// Host ports to which the agent opens a stream for each standard file; `None`: /dev/null.
/// With a terminal only `stdin` and `stdout` are used, for the two directions of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Io {
    /// Host to guest. The host's half-close is end of file.
    pub stdin: Option<u32>,
    /// Guest to host. The agent finishes it when the last writer has closed.
    pub stdout: Option<u32>,
    /// Guest to host.
    pub stderr: Option<u32>,
}

/// Limits of a container's cgroup (cgroup v2 files). `None` leaves a file alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// `memory.max` in bytes; `u64::MAX` for `max`.
    pub memory_max: Option<u64>,
    /// `memory.low` in bytes.
    pub memory_low: Option<u64>,
    /// `memory.swap.max` in bytes; `u64::MAX` for `max`.
    pub swap_max: Option<u64>,
    /// `cpu.max`: quota (`u64::MAX` for `max`) and period in microseconds.
    pub cpu_max: Option<(u64, u64)>,
    /// `cpu.max.burst` in microseconds.
    pub cpu_burst: Option<u64>,
    /// `cpu.weight`, 1..=10000.
    pub cpu_weight: Option<u64>,
    /// `cpu.idle`, 0 or 1.
    pub cpu_idle: Option<i64>,
    /// `cpuset.cpus`.
    pub cpuset_cpus: Option<String>,
    /// `cpuset.mems`.
    pub cpuset_mems: Option<String>,
    /// `pids.max`; `u64::MAX` for `max`.
    pub pids_max: Option<u64>,
    /// `io.weight` or `io.bfq.weight`.
    pub io_weight: Option<u64>,
    /// Further files, name and value, written as they are (OCI `unified`, `io.max`, `hugetlb.*`).
    pub files: Vec<(String, String)>,
    /// Device rules of the container, in order; empty: everything the machine has.
    pub devices: Vec<DeviceRule>,
}

/// One rule of the device cgroup. Later rules win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// `None` for both kinds.
    pub kind: Option<DeviceKind>,
    /// `None` for every major.
    pub major: Option<u32>,
    /// `None` for every minor.
    pub minor: Option<u32>,
    /// Bits: 1 mknod, 2 read, 4 write (BPF_DEVCG_ACC_* of `include/uapi/linux/bpf.h`).
    pub access: u8,
}

/// What a request gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// A process exists.
    Created {
        /// Its pid in the machine.
        pid: u32,
    },
    /// Processes of a container, the oldest first; at most 2048.
    Processes(Vec<ProcessInfo>),
    /// Usage of a container.
    Statistics(Box<Statistics>),
}

/// One process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Pid in the container's pid namespace.
    pub pid: u32,
    /// Parent in that namespace, 0 for none.
    pub parent: u32,
    /// User.
    pub uid: u32,
    /// CPU time used, milliseconds.
    pub cpu_ms: u64,
    /// Started so many seconds after the machine's boot.
    pub started_s: u64,
    /// Command line, blanks between arguments, at most 256 bytes.
    pub command: String,
}

/// Usage of a container, from its cgroup's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// `cpu.stat` by key.
    pub cpu: Vec<(String, u64)>,
    /// `memory.current`, bytes.
    pub memory_current: u64,
    /// `memory.peak`, bytes.
    pub memory_peak: u64,
    /// `memory.max`, bytes; `u64::MAX` for none.
    pub memory_max: u64,
    /// `memory.swap.current`, bytes.
    pub swap_current: u64,
    /// `memory.stat` by key, bytes or counts.
    pub memory: Vec<(String, u64)>,
    /// `memory.events` by key.
    pub memory_events: Vec<(String, u64)>,
    /// `pids.current`.
    pub pids_current: u64,
    /// `pids.max`; `u64::MAX` for none.
    pub pids_max: u64,
    /// `io.stat`: (device `major:minor`, key, value).
    pub io: Vec<(String, String, u64)>,
    /// Of the whole machine: MemTotal and MemAvailable of /proc/meminfo, bytes.
    pub machine_memory: (u64, u64),
    /// Resident memory of the agent (VmRSS), bytes.
    pub agent_resident: u64,
    /// Interfaces of the machine: name, received bytes and packets, sent bytes and packets.
    pub network: Vec<(String, u64, u64, u64, u64)>,
}

/// Something that happened by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A process that `Setup` or `Exec` made has ended and everything it wrote was put on its streams.
    Exited {
        /// Container id.
        container: String,
        /// Which process.
        process_id: u32,
        /// How it ended.
        status: ExitStatus,
        /// The kernel killed a process of the container for lack of memory.
        oom_killed: bool,
    },
    /// The container ran out of memory and a process of it was killed; it may still run.
    OutOfMemory {
        /// Container id.
        container: String,
    },
    /// Something worth telling a person, at most 1 KiB.
    Warning(String),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By exit(2).
    Code(u8),
    /// By a signal.
    Signal(u8),
}

impl ExitStatus {
    /// The exit code that shells and container engines use: 128 + signal.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: what failed and why, one line, at most 4 KiB.
    pub message: String,
}

/// Kinds of failure that a caller treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The program does not exist (exit code 127 for engines).
    CommandNotFound,
    /// The program cannot be executed (126).
    NotExecutable,
    /// No such container or process.
    NotFound,
    /// It has ended.
    NotRunning,
    /// The request makes no sense now or never does.
    Invalid,
    /// Anything else.
    Failed,
}

impl AgentError {
    /// An error of any kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        AgentError { kind, message: message.into() }
    }
}
