//! The namespaces of a container: which ones, and what the agent writes into them from outside.
//!
//! ```text
//!   agent: [time offsets] ─► clone3(pid ipc uts mount [user]) ─► child waits ─► agent writes the maps ─► GO ─► child: own cgroup namespace
//! ```

use crate::error::{Doing, Result, failed};
use crate::sys::{self, Cloned};
use guest_protocol::message::{IdMap, Namespaces, UserNamespace};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::fmt::Write;

/// Not in libc for every target.
const CLONE_NEWTIME: i32 = 0x80;

/// Flags for clone3(2) of the first process. The control group namespace comes later: its root is the group of who makes it.
pub fn clone_flags(namespaces: &Namespaces) -> u64 {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    (flags | if namespaces.user.is_some() { libc::CLONE_NEWUSER } else { 0 }) as u64
}

/// Flags for setns(2) on the first process, for everything but its pid namespace.
pub fn join_flags(namespaces: &Namespaces) -> i32 {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    if namespaces.user.is_some() {
        flags |= libc::CLONE_NEWUSER;
    }
    if !namespaces.time_offsets.is_empty() {
        flags |= CLONE_NEWTIME;
    }
    flags
}

/// Runs `clone` so that its child is born in a new time namespace with these offsets; without offsets, just runs it.
///
/// # Errors
/// When the namespace cannot be made, or left again.
pub fn in_time_namespace<T>(offsets: &[(i32, i64, u32)], clone: impl FnOnce() -> Result<T>) -> Result<T> {
    if offsets.is_empty() {
        return clone();
    }
    let what = || "make the time namespace".to_owned();
    let own = namespace_file("/proc/self/ns/time")?;
    sys::unshare(CLONE_NEWTIME).doing(what)?;
    let lines = offsets.iter().fold(String::new(), |mut lines, (clock, seconds, nanoseconds)| {
        let _ = writeln!(lines, "{clock} {seconds} {nanoseconds}");
        lines
    });
    let result = std::fs::write("/proc/self/timens_offsets", lines).doing(what).and_then(|()| clone());
    sys::set_namespaces(own.as_fd(), CLONE_NEWTIME).doing(|| "leave the time namespace".into())?;
    result
}

/// Runs `clone` so that its child is born in the pid namespace of the process behind `pidfd`.
///
/// # Errors
/// When that namespace is gone.
pub fn in_pid_namespace<T>(pidfd: &OwnedFd, clone: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = namespace_file("/proc/self/ns/pid")?;
    sys::set_namespaces(pidfd.as_fd(), libc::CLONE_NEWPID).doing(|| "enter the pid namespace".into())?;
    let result = clone();
    sys::set_namespaces(own.as_fd(), libc::CLONE_NEWPID).doing(|| "leave the pid namespace".into())?;
    result
}

fn namespace_file(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(|| format!("open {path}"))
}

/// Writes the maps of a child's new user namespace.
///
/// # Errors
/// When the kernel refuses one, for example because of overlapping ranges.
pub fn write_maps(pid: Pid, maps: &UserNamespace) -> Result<()> {
    for (file, map) in [("uid_map", &maps.uid_map), ("gid_map", &maps.gid_map)] {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        std::fs::write(&path, map_text(map)).doing(|| format!("write {file} of the user namespace"))?;
    }
    Ok(())
}

fn map_text(map: &[IdMap]) -> String {
    map.iter().fold(String::new(), |mut text, m| {
        let _ = writeln!(text, "{} {} {}", m.inside, m.outside, m.count);
        text
    })
}

/// The id outside of a map's namespace, the id itself where nothing maps it.
pub fn outside(map: &[IdMap], id: u32) -> u32 {
    let range = map.iter().find(|m| id >= m.inside && id - m.inside < m.count);
    range.map_or(id, |m| m.outside + (id - m.inside))
}

/// A user namespace with these maps that nobody lives in, for an id-mapped mount.
///
/// # Errors
/// When it cannot be made or the maps are refused.
pub fn user_namespace(maps: &UserNamespace) -> Result<OwnedFd> {
    match sys::clone_process(libc::CLONE_NEWUSER as u64, None).doing(|| "make a user namespace".into())? {
        Cloned::Child => loop {
            // Killed below; the agent, which does that, lives as long as the machine.
            std::thread::park();
        },
        Cloned::Parent { pid, pidfd } => {
            let file = write_maps(pid, maps)
                .and_then(|()| namespace_file(&format!("/proc/{}/ns/user", pid.as_raw_nonzero())));
            let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
            file
        }
    }
}

/// Becomes root of the user namespace this process is in.
///
/// # Errors
/// When the maps have no user 0.
pub fn become_root() -> Result<()> {
    sys::set_groups(&[]).and_then(|()| sys::set_ids(0, 0)).map_err(|e| {
        failed(format!(
            "become root of the user namespace: {}; map its user and group 0",
            crate::error::cause(e)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_read_as_the_kernel_wants_them_and_translate() {
        let map = [
            IdMap { inside: 0, outside: 100_000, count: 1000 },
            IdMap { inside: 5000, outside: 7, count: 1 },
        ];
        assert_eq!(map_text(&map), "0 100000 1000\n5000 7 1\n");
        assert_eq!(outside(&map, 0), 100_000);
        assert_eq!(outside(&map, 999), 100_999);
        assert_eq!(outside(&map, 1000), 1000);
        assert_eq!(outside(&map, 5000), 7);
        assert_eq!(outside(&[], 3), 3);
    }

    #[test]
    fn namespaces_follow_the_request() {
        let plain = Namespaces { user: None, time_offsets: vec![] };
        assert_eq!(clone_flags(&plain) & libc::CLONE_NEWUSER as u64, 0);
        assert_eq!(join_flags(&plain) & CLONE_NEWTIME, 0);
        let user = Some(UserNamespace { uid_map: vec![], gid_map: vec![] });
        let full = Namespaces { user, time_offsets: vec![(1, 5, 0)] };
        assert_ne!(clone_flags(&full) & libc::CLONE_NEWUSER as u64, 0);
        assert_ne!(join_flags(&full) & CLONE_NEWTIME, 0);
    }
}
