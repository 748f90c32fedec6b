//! What commands and the keeper say to each other on `keeper.sock`, in frames of `guest_protocol::frame`, and on
//! the status socket of `create`.
//!
//! ```text
//!   command ── one byte, with the exec's stdio sockets attached ──►  keeper
//!           ── Request ──►    ◄── Reply            any number of times
//!                             ◄── Reply::Exited    once, on a connection that has made an Exec
//! ```

use crate::plan::HostLimits;
use guest_protocol::message::{
    CgroupLimits, ErrorKind, ExitStatus, Process, ProcessInfo, Statistics, TerminalSize,
};
use serde::{Deserialize, Serialize};

/// Longest frame in either direction, in bytes.
pub const MAX_FRAME: usize = 8 << 20;

/// First byte of a connection.
pub const GREETING: u8 = b'K';

/// What a command asks of the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run the program. Answered by `Done` when it was executed.
    Start,
    /// Send a signal to the program, or to every process of the container.
    Kill {
        /// Signal number.
        signal: i32,
        /// To all processes.
        all: bool,
    },
    /// Run one more process. Its streams are the descriptors that came with the greeting, in the order stdin, stdout,
    /// stderr; with a terminal there are two, input and output. Answered by `Executed`, later by `Exited`.
    Exec {
        /// The process; the keeper sets its ports.
        process: Box<Process>,
        /// Run it even while the container is paused: refused here, because a machine that stands still runs nothing.
        ignore_paused: bool,
    },
    /// Send a signal to the process that this connection has executed.
    KillExec {
        /// Signal number.
        signal: i32,
    },
    /// Set the size of the terminal of this connection's process.
    Resize(TerminalSize),
    /// Stop all vCPUs.
    Pause,
    /// Let them run.
    Resume,
    /// List processes. Answered by `Processes`.
    Processes,
    /// Read usage. Answered by `Statistics`.
    Statistics,
    /// Change limits.
    Update {
        /// In the guest.
        guest: Box<CgroupLimits>,
        /// Of the host's control group.
        host: Box<HostLimits>,
    },
}

/// The keeper's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The process runs.
    Executed {
        /// Its pid in the machine.
        guest_pid: u32,
    },
    /// The process has ended and its output was delivered.
    Exited(ExitStatus),
    /// Processes, the oldest first.
    Processes(Vec<ProcessInfo>),
    /// Usage.
    Statistics(Box<Statistics>),
    /// It did not work.
    Failed {
        /// For programs.
        kind: ErrorKind,
        /// For people, one line.
        message: String,
    },
}

/// What the keeper tells `create`, one JSON line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Namespaces and control group exist: hooks may run. The keeper waits for one byte before it sets the guest up.
    Namespaces,
    /// The container is created.
    Created,
    /// It failed; the keeper has taken everything back and ends.
    Failed {
        /// What was being done.
        phase: String,
        /// Why, one line.
        message: String,
    },
}
