//! Containers: what the agent knows of them, and everything that prepares their processes.
//!
//! ```text
//!   host_disks.rs  numbers of the host's disks become the machine's
//!   setup.rs  Setup ─► shares, cgroup, detached mounts ─► clone3 ─┐       exec.rs  Exec ─► clone3 in the pid namespace ─┐
//!                                                                 ▼                                                     ▼
//!   child.rs  first process: root mount device hide terminal hook          joining process: setns, terminal
//!                                            └──────────────► process.rs ◄──────────────┘
//!                                 capabilities passwd lookup ─► Ready ─► START ─► seccomp ─► execve
//!   status.rs  the socket between agent and child       cgroup.rs, device_filter.rs, statistics.rs, processes.rs  from outside
//! ```

pub mod capabilities;
pub mod cgroup;
pub mod child;
pub mod copy_up;
pub mod device;
pub mod device_filter;
pub mod exec;
pub mod hide;
pub mod hook;
pub mod host_disks;
pub mod lookup;
pub mod mount;
pub mod namespaces;
pub mod passwd;
pub mod process;
pub mod processes;
pub mod root;
pub mod setup;
pub mod statistics;
pub mod status;
pub mod stdio;
pub mod task;
pub mod terminal;

use cgroup::Cgroup;
use guest_protocol::message::Namespaces;
use rustix::fd::OwnedFd;

/// A container.
pub struct Container {
    /// Its control group, until its last process has ended.
    pub cgroup: Option<Cgroup>,
    /// What an exec'd process has to join.
    pub namespaces: Namespaces,
    /// Namespaces that stay as they are after its end, see [`Remains`].
    pub kept: Vec<OwnedFd>,
    /// How many of its processes the kernel had killed for lack of memory when the host was last told.
    pub oom_kills: u64,
}

/// What is left of an ended container. Taking it down costs time when the machine mostly ends itself.
pub struct Remains {
    _cgroup: Cgroup,
    _kept: Vec<OwnedFd>,
}

impl Container {
    /// Its last process has ended.
    pub fn end(&mut self) -> Option<Remains> {
        let kept = std::mem::take(&mut self.kept);
        self.cgroup.take().map(|cgroup| Remains { _cgroup: cgroup, _kept: kept })
    }
}
