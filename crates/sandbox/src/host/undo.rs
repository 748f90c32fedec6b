//! The list of what `delete` has to take back, in the container's `undo` file.
//!
//! A line is on disk before its effect begins, so after kill -9 at any moment the list names at least what
//! exists. Taking back what does not exist is no error.

use super::network::redirect::{self, Cookie};
use super::network::{self, NetworkError};
use super::{HostError, cgroup};
use crate::state::StateDir;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One effect that outlives the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// Remove a directory of a control group hierarchy, after ending what still runs in it.
    Cgroup(PathBuf),
    /// Let the host's stack have an interface's packets again. The tap they go to has gone with the VMM.
    Redirect {
        /// Of the interface, as a file.
        namespace: PathBuf,
        /// Its number there.
        interface: u32,
        /// By which the redirection is known to be ours.
        cookie: Cookie,
    },
}

/// Adds an effect that is about to begin.
///
/// # Errors
/// When the list cannot be written; then the effect must not begin.
pub fn note(dir: &StateDir, undo: &Undo) -> Result<(), HostError> {
    let path = dir.file("undo");
    let mut line = serde_json::to_vec(undo).map_err(|e| HostError::path("writing", &path)(e.into()))?;
    line.push(b'\n');
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(&line))
        .map_err(HostError::path("writing", &path))
}

/// A namespace that is gone took everything in it along.
fn end_redirect(namespace: &Path, interface: u32, cookie: &Cookie) -> Result<(), NetworkError> {
    match network::socket_in(namespace)? {
        Some(mut socket) => redirect::remove(&mut socket, interface, cookie),
        None => Ok(()),
    }
}

/// Takes everything back, the last effect first. Goes on after a failure.
///
/// # Errors
/// The first failure.
pub fn run(dir: &StateDir) -> Result<(), HostError> {
    let text = fs::read_to_string(dir.file("undo")).unwrap_or_default();
    let mut result = Ok(());
    for line in text.lines().rev() {
        // A line cut by a crash names an effect that never began.
        let Ok(undo) = serde_json::from_str::<Undo>(line) else { continue };
        let done = match undo {
            Undo::Cgroup(path) => cgroup::remove(&path),
            Undo::Redirect { namespace, interface, cookie } => {
                end_redirect(&namespace, interface, &cookie).map_err(HostError::Network)
            }
        };
        result = result.and(done);
    }
    result
}
