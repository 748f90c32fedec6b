//! A directory of the host as a FUSE server: every request becomes a system call on an O_PATH descriptor of the very object.
//!
//! ```text
//!   Request ─► dispatch ─┬─ inodes.rs       node id ─► O_PATH descriptor
//!                        ├─ names.rs        lookup, create, rename, link, unlink
//!                        ├─ files.rs        open, read, write, map into the window     window.rs
//!                        ├─ directories.rs  list
//!                        ├─ attributes.rs   stat, chmod, chown, times, statfs          ids.rs
//!                        └─ xattrs.rs       extended attributes and ACLs
//! ```
//!
//! The guest's kernel checks permissions (FUSE `default_permissions`, always on with virtio-fs), and this process acts with what its launcher left
//! it: CHOWN, DAC_OVERRIDE, FOWNER and the like for a container's root file system, nothing for a user's own directory.
//! New objects are given to the user who asked, as QEMU's 9p does it: that needs no change of identity, so no SETUID capability.
//!
//! Only regular files and directories are ever opened; devices, FIFOs and sockets are names with attributes here, and live in the guest.

mod attributes;
mod directories;
mod files;
mod handles;
pub mod ids;
mod inodes;
mod names;
pub mod window;
mod xattrs;

use super::server::{Request, Server};
use super::wire::{Body, Fields, InHeader, OLDEST_MINOR, Opcode, VERSION, WRITE_IN, init};
use handles::Handles;
use ids::IdMap;
use inodes::Inodes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use window::{ALIGNMENT_BITS, Window};

/// Longest write, in bytes: 256 pages of the guest, which with the headers fit into one descriptor chain.
const MAX_WRITE: u32 = 1 << 20;

/// How long the guest may believe what it was told, when nobody else changes the directory.
const ALONE: Duration = Duration::from_secs(24 * 3600);

/// And when others may.
const SHARED: Duration = Duration::from_secs(1);

/// File descriptors left to the rest of the process.
const SPARE_DESCRIPTORS: u64 = 256;

/// How a directory is shared.
#[derive(Debug, Default)]
pub struct ShareOptions {
    /// Nothing is ever changed, whatever the guest asks.
    pub readonly: bool,
    /// Nobody but this guest changes the directory: it may cache for long.
    pub exclusive: bool,
    /// Translation of owners. With one, ACLs are not offered, for they contain ids.
    pub ids: IdMap,
    /// Where files can be mapped.
    pub window: Option<Window>,
    /// `/proc/self/fd`, O_PATH, for a process that has given up /proc; else it is opened.
    pub proc: Option<OwnedFd>,
    /// Most descriptors; `None`: [`Budget::all`].
    pub budget: Option<Budget>,
}

/// How many descriptors a share may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// For nodes that the guest knows.
    pub nodes: usize,
    /// For files that it has opened.
    pub files: usize,
}

impl Budget {
    /// As many as the process may have, less a few: a quarter for open files.
    pub fn all() -> Self {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let free = most.saturating_sub(SPARE_DESCRIPTORS).clamp(SPARE_DESCRIPTORS, 1 << 20) as usize;
        Budget { nodes: free - free / 4, files: free / 4 }
    }
}

/// A share that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// while opening /proc/self/fd: {0}; the share must be made before the process gives up /proc
    #[error("while opening /proc/self/fd: {0}; the share must be made before the process gives up /proc")]
    Proc(Errno),
    /// while looking at the shared directory: {0}
    #[error("while looking at the shared directory: {0}")]
    Root(Errno),
}

/// A shared directory.
pub struct Share {
    options: ShareOptions,
    inodes: Inodes,
    handles: Handles,
    /// `/proc/self/fd`: the only way to open what an O_PATH descriptor stands for.
    proc: OwnedFd,
    /// Flags of FUSE_INIT that both sides know.
    features: AtomicU64,
}

/// What a request comes to.
enum Answer {
    /// This body.
    Body(Vec<u8>),
    /// So many bytes of body that are in place already.
    InPlace(usize),
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Self::Body(body.0)
    }
}

type Reply = Result<Answer, Errno>;

/// An answer without a body.
const DONE: Reply = Ok(Answer::Body(Vec::new()));

impl Share {
    /// Shares the directory behind `root`, an O_PATH or read descriptor. To be made in the process that serves.
    ///
    /// # Errors
    /// When `root` is no directory or /proc is not there.
    pub fn new(root: OwnedFd, mut options: ShareOptions) -> Result<Self, ShareError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = match options.proc.take() {
            Some(proc) => proc,
            None => rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map_err(ShareError::Proc)?,
        };
        let Budget { nodes, files } = options.budget.unwrap_or_else(Budget::all);
        let inodes = Inodes::new(root, nodes).map_err(ShareError::Root)?;
        let handles = Handles::new(files);
        Ok(Self { options, inodes, handles, proc, features: AtomicU64::new(0) })
    }

    /// The window, if there is one.
    pub fn window(&self) -> Option<&Window> {
        self.options.window.as_ref()
    }

    fn timeout(&self) -> Duration {
        if self.options.exclusive { ALONE } else { SHARED }
    }

    fn negotiated(&self, feature: u64) -> bool {
        self.features.load(Ordering::Relaxed) & feature != 0
    }

    /// Opens what an O_PATH descriptor stands for. Only for regular files and directories.
    fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        // The link in /proc has to be followed; what it leads to is fixed.
        let flags = (flags - OFlags::NOFOLLOW) | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&self.proc, DecInt::from_fd(fd.as_fd()), flags, Mode::empty())
    }

    fn dispatch(&self, header: &InHeader, opcode: Opcode, request: &Request<'_>) -> Reply {
        use Opcode as O;
        if self.options.readonly && opcode.always_writes() {
            return Err(Errno::ROFS);
        }
        let most = if opcode == O::Write { WRITE_IN } else { usize::MAX };
        let arguments = request.arguments(header, most)?;
        let mut fields = Fields(&arguments);
        let node = header.node;
        match opcode {
            O::Init => self.init(fields),
            O::Destroy => {
                self.reset();
                DONE
            }
            O::Forget => {
                self.inodes.forget(node, fields.u64()?);
                DONE
            }
            O::BatchForget => self.batch_forget(fields),
            O::Interrupt => DONE,
            // ENOSYS would reach the program that asked.
            O::Ioctl => Err(Errno::NOTTY),
            O::Lookup => self.lookup(node, fields.name()?),
            O::Getattr => self.getattr(node, fields),
            O::Setattr => self.setattr(node, fields),
            O::Statfs => self.statfs(node),
            O::Readlink => self.readlink(node),
            O::Symlink | O::Mknod | O::Mkdir | O::Link => self.make(opcode, header, fields),
            O::Create | O::Tmpfile => self.create(opcode, header, fields),
            O::Unlink | O::Rmdir => self.unlink(node, fields.name()?, opcode == O::Rmdir),
            O::Rename | O::Rename2 => self.rename(node, fields, opcode == O::Rename2),
            O::Open => self.open(node, fields),
            O::Read => self.read(fields, request),
            O::Write => self.write(fields, request),
            O::Release | O::Releasedir => {
                self.handles.close(fields.u64()?);
                DONE
            }
            O::Fsync | O::Fsyncdir => self.fsync(fields),
            O::Syncfs => self.syncfs(),
            O::Fallocate => self.fallocate(fields),
            O::Lseek => self.lseek(fields),
            O::CopyFileRange => self.copy_file_range(fields),
            O::Setupmapping => self.setup_mapping(node, fields),
            O::Removemapping => self.remove_mapping(fields),
            O::Opendir => self.opendir(node),
            O::Readdir => self.readdir(fields, request.room(), None),
            O::Readdirplus => self.readdir(fields, request.room(), Some(node)),
            O::Getxattr | O::Listxattr => self.read_xattr(opcode, node, fields),
            O::Setxattr | O::Removexattr => self.write_xattr(opcode, node, fields),
        }
    }

    fn init(&self, mut fields: Fields<'_>) -> Reply {
        let (major, minor, readahead, low) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        if major > VERSION.0 {
            // The guest is to ask again with ours.
            return Ok(Body::default().u32(VERSION.0).u32(VERSION.1).zeros(56).into());
        }
        if major < VERSION.0 || minor < OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let high = if u64::from(low) & init::INIT_EXT != 0 { fields.u32().unwrap_or(0) } else { 0 };
        // A guest that was started afresh behind a vhost-user front end: nobody has said that it forgot everything.
        self.handles.clear();
        self.inodes.clear();
        let features = self.offered() & (u64::from(low) | u64::from(high) << 32);
        self.features.store(features, Ordering::Relaxed);
        let alignment = if self.window().is_some() { ALIGNMENT_BITS } else { 0 };
        let body = Body::default().u32(VERSION.0).u32(VERSION.1).u32(readahead).u32(features as u32);
        // Background requests and the level at which the guest calls that congestion: both the guest's own defaults.
        let body = body.u16(0).u16(0).u32(MAX_WRITE).u32(1).u16((MAX_WRITE >> 12) as u16).u16(alignment);
        Ok(body.u32((features >> 32) as u32).zeros(28).into())
    }

    fn offered(&self) -> u64 {
        use init as i;
        let mut offered = i::ASYNC_READ
            | i::ATOMIC_O_TRUNC
            | i::BIG_WRITES
            | i::DONT_MASK
            | i::AUTO_INVAL_DATA
            | i::DO_READDIRPLUS
            | i::READDIRPLUS_AUTO
            | i::ASYNC_DIO
            | i::PARALLEL_DIROPS
            | i::MAX_PAGES
            | i::SUBMOUNTS
            | i::HANDLE_KILLPRIV_V2
            | i::SETXATTR_EXT
            | i::INIT_EXT;
        for (condition, feature) in [
            (self.options.ids.is_identity(), i::POSIX_ACL),
            (self.options.exclusive, i::CACHE_SYMLINKS),
            (self.options.window.is_some(), i::MAP_ALIGNMENT),
        ] {
            offered |= if condition { feature } else { 0 };
        }
        offered
    }

    fn batch_forget(&self, mut fields: Fields<'_>) -> Reply {
        let count = fields.u32()?;
        fields.skip(4)?;
        for _ in 0..count {
            self.inodes.forget(fields.u64()?, fields.u64()?);
        }
        DONE
    }
}

/// Gives the thread a umask and a working directory of its own, unless it has them: creating takes the umask of each request, and extended
/// attributes of what an O_PATH descriptor stands for are reached by its name in `proc` (`/proc/self/fd`) only.
#[expect(unsafe_code, reason = "unshare has a safe form for some flags only")]
pub fn enter_thread(proc: BorrowedFd<'_>) {
    if ENTERED.get() {
        return;
    }
    // SAFETY: file descriptors stay shared; the working directory and the umask become the thread's own.
    let unshared = unsafe { libc::unshare(libc::CLONE_FS) } == 0;
    ENTERED.set(unshared && rustix::process::fchdir(proc).is_ok());
}

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

impl Server for Share {
    fn handle(&self, request: &Request<'_>) -> u32 {
        self.enter_thread();
        let Some(header) = request.header() else { return 0 };
        let Some(opcode) = Opcode::from_wire(header.opcode) else {
            return request.answer(header.unique, Err(Errno::NOSYS));
        };
        let reply = self.dispatch(&header, opcode, request);
        match reply {
            _ if opcode.is_silent() => 0,
            Ok(Answer::Body(body)) => request.answer(header.unique, Ok(&body)),
            Ok(Answer::InPlace(length)) => request.answer_direct(header.unique, length),
            Err(error) => request.answer(header.unique, Err(error)),
        }
    }

    fn enter_thread(&self) {
        enter_thread(self.proc.as_fd());
    }

    fn reset(&self) {
        self.handles.clear();
        self.inodes.clear();
        if let Some(window) = self.window() {
            // All of it is always within.
            let _ = window.unmap(0, window.size);
        }
    }
}

impl Share {
    /// # Errors
    /// EPERM when the thread could not be set up: its umask and working directory are the process's.
    fn entered(&self) -> Result<(), Errno> {
        if ENTERED.get() { Ok(()) } else { Err(Errno::PERM) }
    }
}
