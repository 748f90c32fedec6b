//! A new terminal from the container's own devpts.

use super::mount::{attach, clone_tree};
use super::root::Root;
use super::status::ChildEnd;
use crate::error::{Doing, Result};
use crate::sys;
use guest_protocol::message::TerminalSize;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Opens a terminal and sends its master to the agent. Returns the side of the process.
///
/// # Errors
/// When the container has no devpts at /dev/pts.
pub fn open(root: &Root, size: TerminalSize, status: &ChildEnd) -> Result<OwnedFd> {
    let what = || "open a terminal at /dev/pts/ptmx of the container".to_owned();
    let master = root.open_terminal("/dev/pts/ptmx").doing(what)?;
    unlockpt(&master).doing(what)?;
    // Not by name: whatever is mounted over the name, this is the other end of our master.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).doing(what)?;
    resize(master.as_fd(), size).doing(what)?;
    status.terminal(master.as_fd()).doing(what)?;
    Ok(slave)
}

/// Sets a terminal's size, in either of its ends.
///
/// # Errors
/// Those of the ioctl.
pub fn resize(terminal: BorrowedFd<'_>, size: TerminalSize) -> rustix::io::Result<()> {
    tcsetwinsize(terminal, Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 })
}

/// Binds the terminal over /dev/console of the container.
///
/// # Errors
/// When the bind mount fails.
pub fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    let what = || "bind the terminal to /dev/console of the container".to_owned();
    let at = root.make_file("/dev/console").doing(what)?;
    let tree = clone_tree(slave, false).doing(what)?;
    attach(tree.as_fd(), at.as_fd()).doing(what)
}

/// Starts a session and makes the terminal its controlling one and its standard files. It belongs to `uid` from now on.
///
/// # Errors
/// Those of the system calls.
pub fn control(slave: OwnedFd, uid: u32) -> Result<()> {
    let what = || "take control of the terminal".to_owned();
    rustix::process::ioctl_tiocsctty(&slave).doing(what)?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).doing(what)?;
    for number in 0..3 {
        sys::put_at(slave.as_fd(), number).doing(what)?;
    }
    Ok(())
}
