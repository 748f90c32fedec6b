//! The list of what `delete` has to take back, in the container's `undo` file.
//!
//! A line is on disk before its effect begins, so after kill -9 at any moment the list names at least what
//! exists. Taking back what does not exist is no error.

use super::network::lent::Lent;
use super::network::local_ports::{self, Ports};
use super::network::redirect::{self, Cookie};
use super::network::user::Guard;
use super::network::{self, NetworkError, link, tap};
use super::{HostError, cgroup};
use crate::state::StateDir;
use netlink::Socket;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One effect that outlives the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// Remove a directory of a control group hierarchy, after ending what still runs in it.
    Cgroup(PathBuf),
    /// Remove a tap, if a VMM in a guest's hands has made it stay (TUNSETPERSIST): else it has gone with the VMM.
    Tap {
        /// Of the tap, as a file.
        namespace: PathBuf,
        /// Its number there.
        interface: u32,
    },
    /// Remove a bridge or a macvtap, which gives its interface back.
    Link {
        /// As a file.
        namespace: PathBuf,
        /// Which nobody else's has.
        name: String,
    },
    /// Let the host's stack have an interface's packets again.
    Redirect {
        /// Of the interface, as a file.
        namespace: PathBuf,
        /// Its number there.
        interface: u32,
        /// By which the redirection is known to be ours.
        cookie: Cookie,
    },
    /// Let sockets of a namespace that ask for no port have those again that they had before.
    LocalPorts {
        /// As a file.
        namespace: PathBuf,
        /// Which they had.
        before: Ports,
    },
    /// End a user-space network. Noted before pasta is started.
    UserNetwork(Guard),
    /// Give a PCI function back to its driver, and its interface to its namespace.
    Function(Lent),
    /// This function was given back: it is somebody else's matter now.
    Returned {
        /// Its address.
        address: String,
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
fn in_namespace(
    path: &Path,
    undo: impl FnOnce(&mut Socket) -> Result<(), NetworkError>,
) -> Result<(), HostError> {
    let socket = network::socket_in(path)?;
    Ok(socket.map_or(Ok(()), |mut socket| undo(&mut socket))?)
}

/// Takes everything back, the last effect first. Goes on after a failure.
///
/// # Errors
/// The first failure.
pub fn run(dir: &StateDir) -> Result<(), HostError> {
    let text = fs::read_to_string(dir.file("undo")).unwrap_or_default();
    let (mut result, mut returned) = (Ok(()), BTreeSet::new());
    for line in text.lines().rev() {
        // A line cut by a crash names an effect that never began.
        let Ok(undo) = serde_json::from_str::<Undo>(line) else { continue };
        let done = match undo {
            Undo::Cgroup(path) => cgroup::remove(&path),
            Undo::Redirect { namespace, interface, cookie } => {
                in_namespace(&namespace, |socket| redirect::remove(socket, interface, &cookie))
            }
            Undo::Tap { namespace, interface } => {
                in_namespace(&namespace, |socket| tap::remove(socket, interface))
            }
            Undo::Link { namespace, name } => in_namespace(&namespace, |socket| link::remove(socket, &name)),
            Undo::UserNetwork(guard) => guard.end().map_err(HostError::from),
            Undo::LocalPorts { namespace, before } => {
                let back = || local_ports::put_back(local_ports::FILE.as_ref(), redirect::ANSWERED, before);
                network::run_in(&namespace, back)
                    .and_then(Option::transpose)
                    .map(drop)
                    .map_err(HostError::from)
            }
            Undo::Returned { address } => {
                returned.insert(address);
                Ok(())
            }
            Undo::Function(lent) if returned.contains(lent.address()) => Ok(()),
            Undo::Function(lent) => give_back(dir, &lent),
        };
        result = result.and(done);
    }
    result
}

/// Once only: should something else of the list fail, another machine may have the function when the list is run again.
fn give_back(dir: &StateDir, lent: &Lent) -> Result<(), HostError> {
    lent.give_back()?;
    note(dir, &Undo::Returned { address: lent.address().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_given_back_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::new(root.path(), "c").unwrap();
        let _lock = dir.create().unwrap();
        // No function of any host: there is nothing to give back.
        let lent = r#"{"function":{"function":{"address":"ffff:ff:1f.7","driver":"none","driver_override":null},
            "namespace":null,"name":"eth0","mac":[2,0,0,0,0,1],"mtu":1500}}"#;
        let Undo::Function(lent) = serde_json::from_str(lent).unwrap() else { panic!("another effect") };
        note(&dir, &Undo::Function(lent)).unwrap();
        for _ in 0..2 {
            run(&dir).unwrap();
            let text = fs::read_to_string(dir.file("undo")).unwrap();
            assert_eq!(text.matches(r#"{"returned":{"address":"ffff:ff:1f.7"}}"#).count(), 1, "{text}");
        }
    }
}
