//! The seam to the programs that run a [`MachineSpec`].
//!
//! ```text
//!   MachineSpec ─► Vmm::boot(spec, fds) ─► one process ─► Box<dyn Machine>
//!                    │                                      ├ pid, exit_fd, wait, kill
//!                    └ builtin/, qemu/                      ├ take_link: the host's end of the agent channel
//!                                                           └ pause(): optional powers are accessors
//! ```
//!
//! The process boundary is the seam: this crate spawns programs and never links a VMM. Nothing the guest can write
//! reaches a decision here.

pub mod builtin;
mod json_lines;
mod process;
pub mod qemu;
mod spawn;

use machine_spec::MachineSpec;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A program that runs machines.
pub trait Vmm {
    /// For people, for example `qemu`.
    fn name(&self) -> &'static str;

    /// Starts a machine. Returns as soon as the process runs; the guest boots on its own.
    ///
    /// The process dies with the thread that called this (PR_SET_PDEATHSIG), holds no file descriptors but the
    /// donated ones, and has no standard input.
    ///
    /// # Errors
    /// [`BootError`] when nothing was started; then nothing is left.
    fn boot(&self, spec: &MachineSpec, fds: DonatedFds) -> Result<Box<dyn Machine>, BootError>;
}

/// What the launcher opens for the machine.
#[derive(Debug)]
pub struct DonatedFds {
    /// A connected stream socket for the guest's console; only used when the spec has a console.
    pub console: OwnedFd,
    /// Where the VMM's own messages go (its standard output and error).
    pub log: OwnedFd,
    /// Taps by the names of the spec's network devices, each attached with IFF_VNET_HDR: a descriptor for each pair of queues.
    pub taps: BTreeMap<String, Vec<OwnedFd>>,
}

/// A machine that was started.
pub trait Machine {
    /// Process id of the VMM.
    fn pid(&self) -> u32;

    /// Becomes readable when the VMM has ended (a pidfd).
    fn exit_fd(&self) -> BorrowedFd<'_>;

    /// The host's end of the agent channel; `None` the second time.
    fn take_link(&mut self) -> Option<LinkEndpoint>;

    /// Waits for the end of the VMM. Returns at once after [`Machine::exit_fd`] was readable.
    fn wait(&mut self) -> ExitReason;

    /// Ends the machine at once, as if its power was cut. Idempotent.
    fn kill(&mut self);

    /// The power to stop and continue all vCPUs, if this machine has it.
    fn pause(&mut self) -> Option<&mut dyn Pause>;
}

/// Stops and continues a machine.
pub trait Pause {
    /// Stops all vCPUs. Returns when they stand still.
    ///
    /// # Errors
    /// When the VMM refuses or does not answer in time.
    fn pause(&mut self) -> Result<(), ControlError>;

    /// Lets all vCPUs run again.
    ///
    /// # Errors
    /// When the VMM refuses or does not answer in time.
    fn resume(&mut self) -> Result<(), ControlError>;
}

/// How the host reaches the agent.
#[derive(Debug)]
pub enum LinkEndpoint {
    /// One byte channel, on which `guest_protocol::mux` carries the streams.
    Channel(OwnedFd),
}

/// How a VMM process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// By exit(2): the guest has powered off or reset, or the VMM gave up.
    Exited(i32),
    /// By a signal.
    Signaled(i32),
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The spec is no machine.
    #[error("starting the machine: {0}")]
    Spec(#[from] machine_spec::SpecError),
    /// The spec has something that this program does not have.
    #[error("starting the machine: {vmm} cannot give it {what}")]
    Unsupported {
        /// [`Vmm::name`].
        vmm: &'static str,
        /// For example `a vsock device`.
        what: &'static str,
    },
    /// A network device without its host end.
    #[error("starting the machine: no tap was donated for network device {0:?}")]
    NoTap(String),
    /// Another number of descriptors than the device has pairs of queues.
    #[error(
        "starting the machine: {given} descriptors of a tap were donated for network device {name:?}, which has {queues} pairs of queues"
    )]
    Queues {
        /// The device.
        name: String,
        /// Its pairs.
        queues: u32,
        /// Descriptors.
        given: usize,
    },
    /// A file of the spec is missing or unreadable.
    #[error("opening the machine's {what} {}: {source}", path.display())]
    File {
        /// For example `kernel`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The program could not be executed.
    #[error("starting {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A socket pair or pidfd could not be made.
    #[error("preparing the machine's channels: {0}")]
    Channel(#[source] std::io::Error),
}

/// Why a running machine could not be controlled.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The monitor connection failed.
    #[error("talking to the VMM's monitor: {0}")]
    Io(#[from] std::io::Error),
    /// No answer within the deadline.
    #[error("the VMM's monitor did not answer {command:?} within {seconds} s")]
    Timeout {
        /// What was asked.
        command: String,
        /// The deadline.
        seconds: u64,
    },
    /// The VMM said no.
    #[error("the VMM refused {command:?}: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// Its words.
        reason: String,
    },
}
