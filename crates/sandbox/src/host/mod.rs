//! Effects on the host, each with its way back.
//!
//! ```text
//!   keeper: enter(steps) ─► namespaces, control group, taps, stage      undo::note(..) before each effect that outlives the keeper
//!   delete: undo::run()  ─► takes everything back, whoever died
//! ```
//!
//! Mounts are made in the keeper's own mount namespace: they are gone with its last process, so they need no undo.

pub mod cgroup;
pub mod hooks;
pub mod namespaces;
pub mod network;
pub mod stage;
pub mod undo;

use std::io;
use std::path::PathBuf;

/// Why an effect on the host failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call on a path failed.
    #[error("{doing} {}: {source}", path.display())]
    Path {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A network namespace by path that is no container's.
    #[error("{} is the host's own network, which a virtual machine cannot use; use --network none or bridge with Docker and Podman", .0.display())]
    HostNetwork(PathBuf),
    /// A system call failed.
    #[error("{doing}: {source}")]
    Call {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A hook failed.
    #[error("running {phase} hook #{index} {}: {reason}", path.display())]
    Hook {
        /// OCI name of the phase.
        phase: &'static str,
        /// Position in the list, from 0.
        index: usize,
        /// The program.
        path: PathBuf,
        /// Why, with the end of its output.
        reason: String,
    },
    /// A control group has processes already.
    #[error("control group {} is in use by other processes: choose another linux.cgroupsPath, or end them", path.display())]
    Occupied {
        /// The control group.
        path: PathBuf,
    },
    /// The network.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// Processes of a control group did not go away.
    #[error("removing control group {}: still in use after {seconds} s", path.display())]
    Busy {
        /// The control group.
        path: PathBuf,
        /// The deadline.
        seconds: u64,
    },
}

impl HostError {
    /// An error of `doing` something to `path`.
    pub fn path(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> HostError {
        let path = path.into();
        move |source| HostError::Path { doing, path, source }
    }

    /// An error of `doing` something.
    pub fn call<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> HostError {
        move |source| HostError::Call { doing, source: source.into() }
    }
}
