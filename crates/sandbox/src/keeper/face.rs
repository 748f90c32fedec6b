//! What others see of a container through its pid.
//!
//! Engines take the namespaces of the pid for the container's: hooks put interfaces into `/proc/PID/ns/net`, `podman cp` and nsenter(1) read and
//! write files in its mount namespace. The work needs the host's files, so it is done by a second thread:
//!
//! ```text
//!   first thread, whose id is the pid      the machine's network; root file system and volumes of the container, and nothing of the host
//!   second thread                          the network too; the host's files, the stage
//! ```
//! File systems of the guest's own kernel, a tmpfs for example, are not seen here.

use crate::plan::SandboxPlan;
use guest_protocol::message::{Source, Step};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// What programs that list processes read besides those of a process.
const MACHINE_FILES: [&str; 3] = ["meminfo", "stat", "uptime"];

/// What the first thread is asked for, and where it answers.
type Ask = (Show, Sender<io::Result<()>>);

enum Show {
    /// This network namespace.
    Network(OwnedFd),
    /// Files, of which this is the mount namespace that they are found in.
    Files(OwnedFd, Files),
}

/// Root and volumes.
#[derive(Debug)]
struct Files {
    root: PathBuf,
    /// What is mounted, and where below the root.
    mounts: Vec<(PathBuf, String)>,
    /// The container's processes on the host.
    processes: Vec<u32>,
}

/// The second thread's way to the first one.
#[derive(Debug)]
pub(super) struct Face(Sender<Ask>);

/// Runs `work` in a second thread while this one, the process's first, does what it asks for; returns what it returns.
pub(super) fn with_face(work: impl FnOnce(Face) -> u8 + Send + 'static) -> u8 {
    let (sender, asked) = channel::<Ask>();
    let face = Face(sender);
    let Ok(worker) = thread::Builder::new().name("keeper".into()).spawn(move || work(face)) else { return 1 };
    for (show, answer) in asked {
        let _ = answer.send(match show {
            Show::Network(namespace) => join(&namespace, LinkNameSpaceType::Network),
            Show::Files(namespace, files) => files.show(&namespace),
        });
    }
    worker.join().unwrap_or(1)
}

impl Face {
    /// Shows the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn show_network(&self) -> io::Result<()> {
        self.ask(Show::Network(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// Shows the files that `plan` has staged, found in the calling thread's mount namespace.
    ///
    /// # Errors
    /// When the kernel refuses; then the host's files may be seen.
    pub fn show_files(&self, plan: &SandboxPlan, stage: &Path, processes: Vec<u32>) -> io::Result<()> {
        // Without a root on the host there is the empty directory of the stage itself.
        let mut files = Files { root: stage.to_path_buf(), mounts: Vec::new(), processes };
        for step in &plan.guest.steps {
            match step {
                Step::Rootfs(rootfs) => {
                    if let Some(path) = staged(stage, &rootfs.source) {
                        files.root = path;
                    }
                }
                Step::Mount(mount) => {
                    let path = staged(stage, &mount.source);
                    files.mounts.extend(path.map(|path| (path, mount.destination.clone())));
                }
                _ => {}
            }
        }
        self.ask(Show::Files(File::open("/proc/thread-self/ns/mnt")?.into(), files))
    }

    fn ask(&self, show: Show) -> io::Result<()> {
        let (sender, answer) = channel();
        let gone = || io::Error::other("the first thread has ended");
        self.0.send((show, sender)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

/// Where a share's path is in the stage.
pub(super) fn staged(stage: &Path, source: &Source) -> Option<PathBuf> {
    match source {
        Source::Share { path, .. } => Some(stage.join(path)),
        Source::Disk { .. } | Source::DiskNode { .. } | Source::Machine(_) | Source::Virtual(_) => None,
    }
}

fn join(namespace: &OwnedFd, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}

impl Files {
    /// Makes a mount namespace with these files alone that of the calling thread.
    #[expect(unsafe_code, reason = "unshare is unsafe only for CLONE_FILES, which is not used")]
    fn show(&self, namespace: &OwnedFd) -> io::Result<()> {
        join(namespace, LinkNameSpaceType::Mount)?;
        // SAFETY: a new mount namespace does not share or close file descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Of the mount, so that what is mounted below is seen from there.
        let root = rustix::fs::open(&self.root, place, Mode::empty())?;
        for (source, destination) in &self.mounts {
            put(source, &root, destination)?;
        }
        self.put_processes(&root)?;
        rustix::process::fchdir(&root)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        Ok(rustix::process::chdir("/")?)
    }

    /// A /proc that has the container's processes on the host, for programs that list these.
    fn put_processes(&self, root: &OwnedFd) -> io::Result<()> {
        let Some(at) = inside(root, "proc")? else { return Ok(()) };
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", format!("/proc/self/fd/{}", at.as_raw_fd()), "tmpfs", flags, c"size=64k,mode=555")?;
        let Some(proc) = inside(root, "proc")? else { return Ok(()) };
        for pid in &self.processes {
            rustix::fs::mkdirat(&proc, pid.to_string(), Mode::from_raw_mode(0o555))?;
            put(&Path::new("/proc").join(pid.to_string()), &proc, &pid.to_string())?;
        }
        for name in MACHINE_FILES {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            // Through another descriptor: one of O_PATH makes no files.
            drop(rustix::fs::openat(&proc, name, flags, Mode::from_raw_mode(0o444))?);
            put(&Path::new("/proc").join(name), &proc, name)?;
        }
        Ok(())
    }
}

/// Mounts `source` on `destination` below `root`; a place that the guest has not made, or has made something else of, is left alone.
fn put(source: &Path, root: &OwnedFd, destination: &str) -> io::Result<()> {
    let Some(at) = inside(root, destination)? else { return Ok(()) };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, source, flags)?;
    let is_directory = |fd: &OwnedFd| -> io::Result<bool> {
        let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
        Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
    };
    if is_directory(&tree)? != is_directory(&at)? {
        return Ok(());
    }
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &at, "", both)?)
}

/// A path below `root`, whatever links the guest has put there; `None` when it is not there.
fn inside(root: &OwnedFd, path: &str) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(place) => Ok(Some(place)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
