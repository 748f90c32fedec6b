//! The jail: what is taken from this process before the guest runs its first instruction.
//!
//! ```text
//!   all files open ─► Jail::enter ─► namespaces.rs    own mount, IPC, UTS, cgroup namespaces; a network namespace for vsock
//!                         │                           by name; as a user, a user namespace too
//!                         │          root.rs          an empty, read-only root, with the shared directories only
//!                         │          limits.rs        no core dumps, few descriptors
//!                         │          capabilities.rs  none, but what threads of shares need
//!                         ▼
//!                  devices made, threads started ─► each thread: Jail::thread ─► capabilities of its role, seccomp/ filter of its role
//!                         ▼
//!                  all threads in (Roll) ─► vCPUs run the guest
//! ```
//!
//! It is entered before any other thread exists, so all threads inherit it. Any step that fails ends the program: there is no half a jail.

mod capabilities;
mod limits;
mod namespaces;
mod roll;
mod root;
mod seccomp;

#[cfg(test)]
mod tests;

pub use seccomp::Violation;

use crate::machine::devices::OpenDevice;
use crate::machine::hotplug::slots::SlotCounts;
use crate::virtio::workers::{FirstStep, ThreadStart};
use roll::Roll;
use rustix::process::DumpableBehavior;
use rustix::thread::CapabilitySet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A jail that cannot be entered. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Neither own namespaces nor a user namespace.
    #[error(
        "entering the jail: making namespaces: {0}; start as root, let users make user namespaces (`sysctl user.max_user_namespaces`), or do without protection from the guest by --no-jail"
    )]
    Namespaces(#[source] io::Error),
    /// A step failed.
    #[error("entering the jail: {doing}: {source}; --no-jail does without protection from the guest")]
    Step {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A directory is not what was opened.
    #[error("entering the jail: {0} was moved or replaced while the machine was started; start it again")]
    Moved(std::path::PathBuf),
    /// A thread could not be restricted.
    #[error("restricting the thread {thread}: {reason}; --no-jail does without protection from the guest")]
    Thread {
        /// Its name.
        thread: String,
        /// Why it failed.
        reason: String,
    },
}

fn doing<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError::Step { doing, source: source.into() }
}

/// What a thread is for, hence what it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The main thread.
    EventLoop,
    /// The main thread of a program that serves a device to another VMM.
    VhostUser,
    /// Runs the guest.
    Vcpu,
    /// Reads and writes a disk.
    Disk,
    /// Writes a pmem image back.
    Flush,
    /// Serves a shared directory.
    Share {
        /// Never changes it.
        readonly: bool,
    },
}

/// Ways into the process that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doors {
    /// The guest may reach UNIX sockets by name.
    sockets: bool,
    /// There is a control socket.
    control: bool,
    /// Devices may come by it.
    hotplug: bool,
    /// The guest drives functions of the host.
    vfio: bool,
}

/// What the jail has to leave room for, besides the devices that are there.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// There is a control socket.
    pub control: bool,
    /// Devices that may come by it.
    pub slots: SlotCounts,
    /// There are functions of the host.
    pub vfio: bool,
    /// What happens to a thread that makes a forbidden system call.
    pub violation: Violation,
}

/// What holds for the whole process.
#[derive(Debug, Clone, Copy)]
struct Rules {
    violation: Violation,
    /// What else the machine has.
    doors: Doors,
    /// What threads of shares get their part of; the others give it up.
    capabilities: CapabilitySet,
}

/// The jail of this process, or that there is none.
#[derive(Clone)]
pub struct Jail {
    rules: Option<Rules>,
    roll: Arc<Roll>,
    /// `/proc/self/fd`, for shares that may come.
    descriptors: Option<Arc<OwnedFd>>,
}

impl Jail {
    /// No jail: nothing is taken away.
    pub fn none() -> Self {
        Jail { rules: None, roll: Arc::new(Roll::new(0)), descriptors: None }
    }

    /// Takes everything away that is not needed any more once all files are open. The caller must be the only thread of the process.
    ///
    /// Shared directories and the directories of sockets are replaced by mounts of their own, out of which no `..` leads; `names` are
    /// directories with a socket whose name goes at the end.
    ///
    /// # Errors
    /// The step that failed. The process is good for nothing but its end then.
    pub fn enter(
        devices: &mut [OpenDevice],
        names: &mut [&mut OwnedFd],
        needs: &Needs,
    ) -> Result<Self, JailError> {
        let Needs { control, ref slots, vfio, violation } = *needs;
        one_arena();
        let has = |wanted: fn(&OpenDevice) -> bool| devices.iter().any(wanted);
        let shares = has(|device| matches!(device, OpenDevice::Share { .. }));
        let sockets =
            has(|device| matches!(device, OpenDevice::Vsock { host, .. } if host.sockets.is_some()));
        let owner = namespaces::enter(sockets || violation == Violation::Log)?;
        let descriptors = root::enter(devices, names, slots.shares())?;
        limits::set(shares || slots.shares())?;
        let wanted = match owner {
            namespaces::Owner::Host => capabilities::of_devices(devices) | capabilities::of_slots(slots),
            // A user's own files need none, and others' are out of reach.
            namespaces::Owner::User => CapabilitySet::empty(),
        };
        let capabilities = capabilities::keep(wanted)?;
        rustix::thread::set_no_new_privs(true).map_err(doing("giving up new privileges"))?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(doing("closing our memory to debuggers"))?;
        let rules = Rules {
            violation,
            doors: Doors { sockets, control, hotplug: control && !slots.is_empty(), vfio },
            capabilities,
        };
        let descriptors = descriptors.map(Arc::new);
        Ok(Jail { rules: Some(rules), roll: Arc::new(Roll::new(1)), descriptors })
    }

    /// Whether this process is in a jail.
    pub fn is_shut(&self) -> bool {
        self.rules.is_some()
    }

    /// `/proc/self/fd`, for shares that may come.
    pub fn descriptors(&self) -> Option<&OwnedFd> {
        self.descriptors.as_deref()
    }

    /// How threads of this role start.
    pub fn thread(&self, role: Role) -> ThreadStart {
        let jail = self.clone();
        Arc::new(move |name: &str| jail.restriction(role, name))
    }

    /// The first step of a thread of this role, which is about to be started.
    pub fn restriction(&self, role: Role, name: &str) -> FirstStep {
        let Some(rules) = self.rules else { return Box::new(|| {}) };
        self.roll.expect_one();
        let (roll, name) = (Arc::clone(&self.roll), name.to_string());
        Box::new(move || roll.entered(rules.restrict(role, &name)))
    }

    /// Restricts the main thread for good: it can start no threads and open no files any more.
    pub fn main_thread(&self, role: Role) {
        if let Some(rules) = self.rules {
            self.roll.entered(rules.restrict(role, "main"));
        }
    }

    /// Waits until all threads are restricted; false when one could not be, and [`Jail::failure`] says why to one caller.
    pub fn all_in(&self) -> bool {
        self.roll.all_in()
    }

    /// Why a thread could not be restricted, if one could not.
    pub fn failure(&self) -> Option<JailError> {
        self.roll.failure()
    }
}

/// A mount of its own for a directory that goes to a machine in its jail, which cannot make one. May put this process, which has one thread, into
/// namespaces of its own.
///
/// # Errors
/// When this process may make no mounts, or the directory was moved meanwhile.
pub fn own_mount(directory: &OwnedFd, readonly: bool) -> Result<OwnedFd, JailError> {
    root::detached(directory, readonly).or_else(|_| {
        namespaces::enter(false)?;
        root::detached(directory, readonly)
    })
}

impl Rules {
    /// Leaves the calling thread what its role needs.
    fn restrict(&self, role: Role, name: &str) -> Result<(), JailError> {
        let failed = |reason: String| JailError::Thread { thread: name.to_string(), reason };
        let own = capabilities::of_role(role) & self.capabilities;
        if own != self.capabilities {
            capabilities::set(own).map_err(|e| failed(e.to_string()))?;
        }
        seccomp::install(role, self.doors, self.violation).map_err(|e| failed(e.to_string()))
    }
}

/// One heap for all threads: glibc's other arenas open a file in /proc when they shrink, and cost memory.
#[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes plain numbers, and no other thread exists that could allocate meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
