//! Own namespaces, so that what a broken-out guest could see of the host is nothing.
//!
//! No PID namespace: it would hold for children only, of which there are none. Signals, ptrace and the like are refused by the filters.
//!
//! A network namespace only where a filter allows to connect to sockets: it keeps the host's abstract sockets out of reach. Where no socket
//! can be made it would protect nothing, and cost more than the rest of the jail (see `docs/jail.md`).
#![expect(unsafe_code, reason = "unshare has a safe form for some flags only")]

use super::{JailError, doing};
use rustix::io::Errno;
use std::fs;

/// What this process gets of its own.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// Whose rights the namespaces have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The host's, less what is dropped.
    Host,
    /// Of a user namespace with that one user in it: none on the host but the user's.
    User,
}

/// Enters them, with an empty `network` if that is asked for. Without the right to, in a user namespace of our own.
///
/// # Errors
/// When the host allows neither.
pub fn enter(network: bool) -> Result<Owner, JailError> {
    let namespaces = NAMESPACES | if network { libc::CLONE_NEWNET } else { 0 };
    match unshare(namespaces) {
        Ok(()) => Ok(Owner::Host),
        Err(Errno::PERM) => enter_as_user(namespaces).map(|()| Owner::User),
        Err(errno) => Err(JailError::Namespaces(errno.into())),
    }
}

fn enter_as_user(namespaces: libc::c_int) -> Result<(), JailError> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(libc::CLONE_NEWUSER | namespaces).map_err(|errno| JailError::Namespaces(errno.into()))?;
    // A group may be named only by somebody who cannot leave other groups by it.
    fs::write("/proc/self/setgroups", "deny").map_err(doing("keeping the groups of the user namespace"))?;
    let same = |id: u32| format!("{id} {id} 1");
    fs::write("/proc/self/uid_map", same(user)).map_err(doing("naming the user of the user namespace"))?;
    fs::write("/proc/self/gid_map", same(group)).map_err(doing("naming the group of the user namespace"))
}

fn unshare(flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: these flags leave memory and file descriptors as they are.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::PERM)),
    }
}
