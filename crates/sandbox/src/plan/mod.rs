//! From a container's configuration to everything that has to happen: on the host, as machine, in the guest.
//!
//! ```text
//!   Bundle, Configuration, HostFacts, MiniOs ──► rootfs  mounts  devices  namespaces  resources  security  process  hooks
//!                                                   └──────┴────────┴───── Piece { host, devices, guest } ───┘
//!                                                                              │ fold, in order
//!                                                                              ▼
//!                                                                         SandboxPlan
//! ```
//!
//! Nothing here does I/O. All names (share tags, serials, ports) are chosen here, and nothing flows back up.

mod bind;
mod capabilities;
mod cgroup_path;
mod devices;
mod error;
mod fold;
mod hooks;
mod host_disks;
mod id_maps;
mod limits;
mod machine;
mod mount_options;
mod mounts;
mod namespaces;
mod network;
mod pods;
mod process;
mod resources;
mod rootfs;
mod scheduling;
mod seccomp;
mod security;
mod size;
mod unsupported;
mod update;

pub use capabilities::known_capabilities;
pub use error::PlanError;
pub use fold::plan;
pub use limits::guest_limits;
pub use mount_options::known_options;
pub use pods::{Neighbour, sandbox as sandbox_of};
pub use process::process_for_exec;
pub use seccomp::seccomp_features;
pub use update::update;

use crate::bundle::Bundle;
use crate::configuration::{Configuration, NetworkModel, Passthrough};
use guest_protocol::message::{Setup, Step};
use host_check::facts::HostFacts;
use machine_spec::mini_os::MiniOs;
use machine_spec::{Device, MachineSpec};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Container id.
    pub id: &'a str,
    /// What to run.
    pub bundle: &'a Bundle,
    /// How to run it, with what the bundle overrides: see [`Configuration::for_bundle`].
    pub configuration: &'a Configuration,
    /// What the host can do.
    pub facts: &'a HostFacts,
    /// What boots, its paths absolute.
    pub mini_os: &'a MiniOs,
    /// What the command line said.
    pub options: &'a PlanOptions,
}

impl<'a> Inputs<'a> {
    fn resources(&self) -> Option<&'a LinuxResources> {
        self.bundle.spec.linux().as_ref()?.resources().as_ref()
    }
}

/// What the command line says about a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    /// `--systemd-cgroup`: `linux.cgroupsPath` has the form `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// `--require-kvm`: refuse rather than emulate.
    pub require_kvm: bool,
    /// Absolute path of the directory behind [`SHARE_TAG`], made by the keeper.
    pub stage: PathBuf,
    /// The containers that run, if namespaces are given by path.
    pub neighbours: Vec<Neighbour>,
}

/// What one feature of the configuration needs on the three sides.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    /// Effects on the host, in order.
    pub host: Vec<HostStep>,
    /// Devices of the machine.
    pub devices: Vec<Device>,
    /// Steps in the guest, in order.
    pub guest: Vec<Step>,
    /// What the user should know: a request that is met in another way than with runc.
    pub warnings: Vec<String>,
}

/// Everything that has to happen for one container. Its JSON form is what `cor plan` prints and the keeper reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxPlan {
    /// Container id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system on the host.
    pub rootfs: PathBuf,
    /// Annotations of the configuration, for the state.
    pub annotations: BTreeMap<String, String>,
    /// Effects on the host, in order; undone in reverse.
    pub host: Vec<HostStep>,
    /// The program that runs the machine, for example `/usr/bin/qemu-system-x86_64`.
    pub vmm_program: PathBuf,
    /// The machine.
    pub machine: MachineSpec,
    /// The one message that sets the container up. The keeper fills in clock and entropy when it sends it.
    pub guest: Setup,
    /// Hooks that run on the host.
    pub hooks: HostHooks,
    /// Whether the container's process has a terminal.
    pub terminal: bool,
    /// Seconds that the guest has from the start of the machine until its agent calls.
    pub boot_timeout_s: u32,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

impl SandboxPlan {
    /// The host name that the container gets, if it gets one.
    pub fn hostname(&self) -> Option<&str> {
        self.guest.steps.iter().find_map(|step| match step {
            Step::Hostname(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

/// The network device number `index` with so many pairs of queues: its name for the VMM, and the address by which the guest finds it. On
/// the wire it has that of its interface.
pub fn net_device(index: usize, queues: u32) -> Device {
    // Locally administered, as those that nobody has bought are (IEEE 802, the second bit of the first byte).
    let [.., high, low] = index.to_be_bytes();
    Device::Net { name: format!("net{index}"), mac: [0x02, 0xc1, 0xea, 0x00, high, low], queues }
}

fn one() -> u32 {
    1
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

/// Name of the one share of a machine; every directory and file from the host is below it.
pub const SHARE_TAG: &str = "share";

/// Stdio ports of the container's own process.
pub const INIT_STDIN_PORT: u32 = guest_protocol::FIRST_STDIO_PORT;
/// See [`INIT_STDIN_PORT`].
pub const INIT_STDOUT_PORT: u32 = guest_protocol::FIRST_STDIO_PORT + 1;
/// See [`INIT_STDIN_PORT`].
pub const INIT_STDERR_PORT: u32 = guest_protocol::FIRST_STDIO_PORT + 2;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One effect on the host. The keeper runs them in order in a mount namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum HostStep {
    /// Put the keeper (and so the VMM) into this control group, made if missing, with these limits.
    Cgroup {
        /// Path below each hierarchy's root, starting with a slash.
        path: PathBuf,
        /// Limits for the whole machine: the container's plus the machine's overhead.
        limits: HostLimits,
    },
    /// Join this network namespace, or make a new one.
    NetworkNamespace {
        /// The namespace file, for example `/run/netns/x`; `None` for a new one.
        path: Option<PathBuf>,
    },
    /// Give that namespace, which is new, an interface that pasta serves.
    UserNetwork {
        /// pasta.
        program: PathBuf,
    },
    /// Make taps in the network namespace and connect its interfaces with them, each with a device of the machine: one for each
    /// interface, and at least `least`. Their names and addresses: [`net_device`].
    Taps {
        /// How frames go between an interface and its device.
        #[serde(default, skip_serializing_if = "is_default")]
        model: NetworkModel,
        /// Number of devices, if there are fewer interfaces.
        least: usize,
        /// Pairs of queues of each device.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        queues: u32,
        /// Take interfaces from another machine that has them: the one of the pod's sandbox.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        take_over: bool,
        /// Which interfaces that are PCI functions go to the machine itself instead.
        #[serde(default, skip_serializing_if = "is_default")]
        passthrough: Passthrough,
        /// Refuse one of them that cannot be passed, instead of redirecting its packets.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        insist: bool,
    },
    /// Bind a host path to `<stage>/<name>`; the stage is the directory behind [`SHARE_TAG`], on a private tmpfs.
    Stage {
        /// Name below the stage.
        name: String,
        /// Absolute path on the host.
        source: PathBuf,
        /// A directory, or anything that is no directory.
        directory: bool,
        /// Writes are refused on the host side.
        readonly: bool,
        /// Also to the mounts below it (`rro`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        readonly_below: bool,
        /// Mounts below the source come along.
        recursive: bool,
    },
}

/// Limits of the host's control group, neutral between cgroup v1 and v2. `None` leaves one alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLimits {
    /// Bytes.
    pub memory_max: Option<u64>,
    /// Quota and period in microseconds.
    pub cpu_max: Option<(u64, u64)>,
    /// cgroup v1 scale, 2..=262144.
    pub cpu_shares: Option<u64>,
    /// For example `0-3`.
    pub cpuset_cpus: Option<String>,
    /// For example `0`.
    pub cpuset_mems: Option<String>,
}

/// Hooks that run on the host, by the `cor` command of their phase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostHooks {
    /// In `create`, before the container's set-up.
    pub prestart: Vec<HostHook>,
    /// In `create`, after `prestart`.
    pub create_runtime: Vec<HostHook>,
    /// In `start`, after the program runs.
    pub poststart: Vec<HostHook>,
    /// In `delete`.
    pub poststop: Vec<HostHook>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostHook {
    /// Program, absolute.
    pub path: PathBuf,
    /// Arguments with `args[0]`; empty means just `path`.
    pub args: Vec<String>,
    /// Environment, `K=V`; nothing is inherited.
    pub env: Vec<String>,
    /// Seconds after which it is killed and counts as failed.
    pub timeout_s: Option<u32>,
}

impl SandboxPlan {
    /// The container's own process.
    pub fn init_process(&self) -> Option<&guest_protocol::message::Process> {
        self.guest.steps.iter().find_map(|step| match step {
            Step::Process(process) => Some(&**process),
            _ => None,
        })
    }
}
