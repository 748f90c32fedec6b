//! Facts about the host that a plan depends on, as pure data.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a plan has to know about the host. [`crate::survey`] fills it; golden tests write it by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFacts {
    /// GNU name of the CPU architecture, for example `x86_64`.
    pub arch: String,
    /// CPUs this process may run on.
    pub cpus: u32,
    /// MemTotal in MiB.
    pub memory_total_mib: u64,
    /// MemAvailable in MiB.
    pub memory_available_mib: u64,
    /// Whether hardware virtualization works, decided by running a guest.
    pub kvm: Kvm,
    /// The QEMU found, if any.
    pub qemu: Option<Qemu>,
    /// The clear-vmm found, if any.
    #[serde(default)]
    pub clear_vmm: Option<PathBuf>,
    /// The pasta found, if any.
    #[serde(default)]
    pub pasta: Option<PathBuf>,
    /// Whether this process's network has a default route, of IPv4 or IPv6.
    #[serde(default)]
    pub default_route: bool,
    /// How control groups are mounted.
    pub cgroups: Cgroups,
    /// Name of the host in this process's UTS namespace; empty if it cannot be read.
    #[serde(default)]
    pub hostname: String,
    /// Thousands of ticks a second of the time stamp counter; nothing where it is not steady.
    #[serde(default)]
    pub tsc_khz: Option<u32>,
}

/// Whether /dev/kvm runs real guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kvm {
    /// The probe guest ran.
    Usable,
    /// It did not; the reason, for people.
    Unusable(String),
}

/// A QEMU program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// The program.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
}

/// How control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cgroups {
    /// One unified hierarchy at this path.
    V2(PathBuf),
    /// Controllers at these mount points, by controller name (`cpu`, `memory`, `pids`, ...; `name=systemd` included).
    V1(std::collections::BTreeMap<String, PathBuf>),
    /// None that can be used; the reason, for people.
    None(String),
}
