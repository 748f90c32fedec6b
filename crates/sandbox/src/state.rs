//! How a container stands: its directory below the runtime root, and what is in it.
//!
//! ```text
//!   ROOT/<id>/lock        held (flock) by the keeper for its whole life: free = no keeper
//!             plan.json   what is being done, written once by `create`
//!             state.json  written only by the keeper, replaced atomically
//!             undo        what `delete` has to take back, each line written before its effect
//!             keeper.sock where commands reach the keeper
//!             share/      the stage, mounted only in the keeper's mount namespace
//! ```
//!
//! A status is a function of the lock and `state.json`, never a guess: without a keeper every container is stopped.

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where containers are kept unless `--root` says otherwise.
pub const DEFAULT_ROOT: &str = "/run/cor";

/// Longest container id in bytes: it is a file name (NAME_MAX).
pub const MAX_ID: usize = 255;

/// Why a container's state could not be used. The texts are those that engines look for in runc's.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The id cannot be a container's name.
    #[error(
        "invalid container ID {0:?}: use 1 to {MAX_ID} characters from [A-Za-z0-9_+.-], other than \".\" and \"..\""
    )]
    InvalidId(String),
    /// There is none.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// There is one already.
    #[error("container with ID {0:?} already exists: choose another ID or delete it first")]
    Exists(String),
    /// A file of the state could not be used.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the state makes no sense.
    #[error("reading {}: {source}; `delete --force` removes the container", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// OCI status, and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made; the program waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// All vCPUs stand still.
    Paused,
    /// The program has ended, or the keeper has.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// Content of `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Container id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// The keeper's pid: the container's pid for engines.
    pub pid: u32,
    /// The VMM's pid, once there is one.
    pub vmm_pid: Option<u32>,
    /// What the keeper last wrote; see [`Container::status`].
    pub status: Status,
    /// Exit code of the program, once it has ended.
    pub exit_code: Option<u8>,
    /// Whether the kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// Annotations of the configuration.
    pub annotations: BTreeMap<String, String>,
    /// The machine in short.
    pub machine: MachineSummary,
}

/// The machine in short, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSummary {
    /// Program, for example `qemu`.
    pub vmm: String,
    /// `kvm` or `emulation`.
    pub accelerator: machine_spec::Accelerator,
    /// vCPUs.
    pub vcpus: u32,
    /// RAM in MiB.
    pub memory_mib: u64,
}

/// Checks that `id` can be a container's name. runc accepts the same characters.
///
/// # Errors
/// [`StateError::InvalidId`], with a long id cut.
pub fn check_id(id: &str) -> Result<(), StateError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > MAX_ID || id == "." || id == ".." || !id.chars().all(plain) {
        return Err(StateError::InvalidId(id.chars().take(64).collect()));
    }
    Ok(())
}

/// A container's directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
    id: String,
    path: PathBuf,
}

impl StateDir {
    /// Names the directory of container `id` below `root`, whether it exists or not.
    ///
    /// # Errors
    /// When the id is invalid.
    pub fn new(root: &Path, id: &str) -> Result<Self, StateError> {
        check_id(id)?;
        Ok(StateDir { root: root.to_path_buf(), id: id.to_string(), path: root.join(id) })
    }

    /// Makes the directory and takes its lock. The lock is the returned file; keep it open.
    ///
    /// # Errors
    /// When the container exists, or the root cannot be written.
    pub fn create(&self) -> Result<File, StateError> {
        let io = |doing, path: &Path| {
            let path = path.to_path_buf();
            move |source| StateError::Io { doing, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.root)
            .map_err(io("creating the runtime root", &self.root))?;
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StateError::Exists(self.id.clone()));
            }
            Err(e) => return Err(io("creating", &self.path)(e)),
        }
        let lock = File::create(self.file("lock")).and_then(|lock| {
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(lock)
        });
        lock.map_err(|source| {
            let _ = fs::remove_dir_all(&self.path);
            io("locking", &self.path)(source)
        })
    }

    /// Container id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The runtime root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory behind the machine's share.
    pub fn stage(&self) -> PathBuf {
        self.file("share")
    }

    /// A path of `name` that fits into a socket address, whatever the length of the root (`sun_path` has 108 bytes).
    /// Valid while the returned descriptor is open.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn short_path(&self, name: &str) -> io::Result<(OwnedFd, PathBuf)> {
        let dir =
            rustix::fs::open(&self.path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        Ok((dir, path.into()))
    }

    /// Whether the directory exists.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Whether a keeper (or a `create` that is about to start one) holds the lock.
    pub fn has_keeper(&self) -> bool {
        let Ok(lock) = File::open(self.file("lock")) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }

    /// Replaces a file of the directory atomically.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        write_atomically(&path, content).map_err(|source| StateError::Io { doing: "writing", path, source })
    }

    /// Reads `state.json` and looks at the lock.
    ///
    /// # Errors
    /// [`StateError::NotFound`] when there is no such container; others when its state is unreadable.
    pub fn load(&self) -> Result<Container, StateError> {
        // The lock first: a keeper that ends in between has written its last state by then.
        let has_keeper = self.has_keeper();
        let path = self.file("state.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let file =
                    serde_json::from_slice(&bytes).map_err(|source| StateError::Corrupt { path, source })?;
                Ok(Container { dir: self.clone(), file, has_keeper })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StateError::NotFound(self.id.clone())),
            Err(source) => Err(StateError::Io { doing: "reading", path, source }),
        }
    }

    /// Removes the directory. Everything that `undo` names must be gone already.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Io { doing: "removing", path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// A container that exists.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its directory.
    pub dir: StateDir,
    /// What the keeper wrote.
    pub file: StateFile,
    has_keeper: bool,
}

impl Container {
    /// How it stands now.
    pub fn status(&self) -> Status {
        if self.has_keeper { self.file.status } else { Status::Stopped }
    }

    /// The container's pid for engines; 0 when it has stopped.
    pub fn pid(&self) -> u32 {
        if self.status() == Status::Stopped { 0 } else { self.file.pid }
    }
}

/// All containers below `root`, by id. Directories without a readable state are left out.
pub fn list(root: &Path) -> Vec<Container> {
    let mut containers: Vec<_> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| StateDir::new(root, entry.file_name().to_str()?).ok()?.load().ok())
        .collect();
    containers.sort_by(|a, b| a.file.id.cmp(&b.file.id));
    containers
}

/// Writes a file so that readers see the old content or the new, never a part.
///
/// # Errors
/// When it cannot be written; then nothing is left.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ids_are_refused() {
        for id in ["", ".", "..", "../x", "a/b", "a b", "a\0", "ü", &"x".repeat(5000)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["a", "web-1", "0.9_x+y", &"x".repeat(255)] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
        assert!(check_id(&"x".repeat(5000)).unwrap_err().to_string().len() < 300);
    }

    fn state(dir: &StateDir) -> StateFile {
        StateFile {
            id: dir.id().into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-01-01T00:00:00Z".into(),
            pid: 42,
            vmm_pid: None,
            status: Status::Running,
            exit_code: None,
            oom_killed: false,
            annotations: BTreeMap::new(),
            machine: MachineSummary {
                vmm: "qemu".into(),
                accelerator: machine_spec::Accelerator::Emulation,
                vcpus: 1,
                memory_mib: 128,
            },
        }
    }

    #[test]
    fn without_a_keeper_a_container_is_stopped() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::new(root.path(), "c").unwrap();
        assert!(matches!(dir.load(), Err(StateError::NotFound(_))));
        let lock = dir.create().unwrap();
        dir.write("state.json", &serde_json::to_vec(&state(&dir)).unwrap()).unwrap();
        assert_eq!(dir.load().unwrap().status(), Status::Running);
        assert_eq!(list(root.path()).len(), 1);
        drop(lock);
        let container = dir.load().unwrap();
        assert_eq!((container.status(), container.pid()), (Status::Stopped, 0));
        dir.remove().unwrap();
        assert!(list(root.path()).is_empty());
    }

    #[test]
    fn an_id_can_be_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::new(root.path(), "c").unwrap();
        let _lock = dir.create().unwrap();
        assert!(matches!(dir.create(), Err(StateError::Exists(_))));
    }
}
