//! What a done command answers: the `ok` of its line.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Answer to `state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `running` or `paused`.
    pub state: String,
    /// Process id of the machine.
    pub pid: u32,
    /// Number of virtual CPUs.
    pub vcpus: usize,
    /// Bytes of RAM that it started with.
    pub memory: u64,
    /// How much it has now, when that may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_size: Option<MemorySize>,
    /// All devices.
    pub devices: Vec<DeviceState>,
    /// For a machine in its jail: how many devices of each kind may still come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<BTreeMap<String, usize>>,
}

/// RAM of a machine that may get more and less, bytes, all of it counted. Answer to `memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySize {
    /// What the guest has.
    pub now: u64,
    /// What it was asked to have; it may take its time, and cannot always give up what it uses.
    pub wanted: u64,
    /// What it may have at most.
    pub max: u64,
}

/// A device in [`State`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// By which it is named here.
    pub id: String,
    /// For example `block`.
    pub kind: String,
    /// Where the guest sees it.
    pub pci: String,
    /// Whether a driver of the guest uses it now.
    pub active: bool,
    /// It was removed by force; it goes when the guest lets go of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// Answer to `add-*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// By which it is named here.
    pub id: String,
    /// Where the guest finds it when it rescans its bus.
    pub pci: String,
}

/// Answer to `stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// How often each vCPU has left the guest for this program.
    pub vcpu_exits: Vec<u64>,
    /// Memory of the host.
    pub memory: MemoryStats,
    /// The balloon, when there is one.
    pub balloon: Option<BalloonStats>,
    /// What devices have done.
    pub devices: Vec<DeviceStats>,
}

/// What the machine's process uses, bytes; guest RAM is most of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// In memory now.
    pub rss: u64,
    /// The same, pages that several processes share divided among them.
    pub pss: u64,
    /// Of `rss`, what nobody else has.
    pub private: u64,
    /// Of `rss`, what others have as well: images, merged pages.
    pub shared: u64,
    /// In swap.
    pub swap: u64,
}

/// What the balloon has done, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStats {
    /// What the guest has given up for now.
    pub taken: u64,
    /// What went back to the host since the start; a page that was used and freed again counts again.
    pub freed: u64,
}

/// What one device has done since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStats {
    /// By which it is named here.
    pub id: String,
    /// For example `block`.
    pub kind: String,
    /// Requests or packets done.
    pub requests: u64,
    /// Bytes that the guest got.
    pub bytes_to_guest: u64,
    /// Bytes that the guest gave.
    pub bytes_from_guest: u64,
    /// Requests that failed, packets that were dropped.
    pub errors: u64,
    /// How often a rate limit made the guest wait.
    pub throttled: u64,
}
