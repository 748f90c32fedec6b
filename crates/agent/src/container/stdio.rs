//! Pipes for the standard files of a process without a terminal.

use super::namespaces::outside;
use crate::error::{Doing, Result};
use crate::streams::Direction;
use crate::sys;
use guest_protocol::message::{Process, UserNamespace};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::{PipeFlags, pipe_with};

/// The ends of the process.
pub struct ChildStdio([OwnedFd; 3]);

/// An end of the agent: which way, the host's port, the non-blocking file.
pub type AgentEnd = (Direction, u32, OwnedFd);

impl ChildStdio {
    /// All three files.
    pub fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd)
    }

    /// Makes them the standard files of this process.
    ///
    /// # Errors
    /// Those of dup2(2).
    pub fn put_in_place(&self) -> Result<()> {
        for (file, number) in self.files().zip(0..) {
            sys::put_at(file, number).doing(|| "set the standard files".into())?;
        }
        Ok(())
    }
}

/// Makes a pipe for each standard file that has a port, /dev/null for the others. The pipes belong to the process's
/// user, so that it may open them again through /dev/stdout.
///
/// # Errors
/// When the agent is out of file descriptors.
pub fn pipes(process: &Process, user: Option<&UserNamespace>) -> Result<(ChildStdio, Vec<AgentEnd>)> {
    let what = || "make pipes for the standard files".to_owned();
    let uid = Uid::from_raw(user.map_or(process.uid, |u| outside(&u.uid_map, process.uid)));
    let mut ends = Vec::new();
    let mut one = |port: Option<u32>, direction: Direction| -> rustix::io::Result<OwnedFd> {
        let Some(port) = port else {
            return rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ours, theirs) = if direction == Direction::In { (writer, reader) } else { (reader, writer) };
        if !uid.is_root() {
            rustix::fs::fchown(&theirs, Some(uid), None::<Gid>)?;
        }
        rustix::io::ioctl_fionbio(&ours, true)?;
        ends.push((direction, port, ours));
        Ok(theirs)
    };
    let files = [
        one(process.io.stdin, Direction::In).doing(what)?,
        one(process.io.stdout, Direction::Out).doing(what)?,
        one(process.io.stderr, Direction::Out).doing(what)?,
    ];
    Ok((ChildStdio(files), ends))
}
