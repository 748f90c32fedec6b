//! The file systems of the lab.
//!
//! ```text
//!   / or /host   the host's root over 9p, read-only
//!   /run         tmpfs: upper, work, root
//!   /run/root    overlay of the two, becomes /
//!        /proc /sys /dev /run /tmp    fresh
//!        kept paths below /run, /tmp  the overlay's own again
//!        shares                       9p, writable
//! ```

use crate::lab::machine::TRANSPORT;
use crate::lab::wire::Job;
use anyhow::{Context, Result};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_move, move_mount, open_tree};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Holds what makes the new root until it is one.
const WORKSHOP: &str = "/run";

/// Where the new root is put together.
const NEW: &str = "/run/root";

/// What a fresh file system hides.
const FRESH: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// Kernel file systems after the first ones: type, place, options. One that this kernel lacks is left out.
const OPTIONAL: [(&str, &str, &str); 8] = [
    ("devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666"),
    ("mqueue", "/dev/mqueue", ""),
    ("hugetlbfs", "/dev/hugepages", ""),
    ("cgroup2", "/sys/fs/cgroup", "nsdelegate"),
    ("securityfs", "/sys/kernel/security", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("bpf", "/sys/fs/bpf", "mode=700"),
];

/// What finding devices takes, /dev apart.
///
/// # Errors
/// mount(2)'s.
pub fn kernel_views() -> Result<()> {
    put("proc", "/proc", "")?;
    put("sysfs", "/sys", "")
}

/// Makes a writable overlay of the host's root, which is mounted at `host`, the root of this process.
///
/// # Errors
/// The mount that failed.
pub fn root(job: &Job, host: &Path) -> Result<()> {
    put("tmpfs", WORKSHOP, "mode=755")?;
    for name in ["upper", "work", "root"] {
        make(&Path::new(WORKSHOP).join(name))?;
    }
    put("overlay", NEW, &format!("lowerdir={},upperdir=/run/upper,workdir=/run/work", host.display()))?;
    let kept = keep(job)?;
    for place in ["/dev", "/proc", "/sys"] {
        let new = below(NEW, Path::new(place));
        make(&new)?;
        mount_move(place, &new).with_context(|| format!("moving {place} to the new root"))?;
    }
    put("tmpfs", below(NEW, Path::new("/run")), "mode=755")?;
    put("tmpfs", below(NEW, Path::new("/tmp")), "mode=1777")?;
    for (path, tree) in kept {
        let place = below(NEW, &path);
        make(&place)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, &place, flags)
            .with_context(|| format!("showing the host's {}", path.display()))?;
    }
    enter()?;
    put("tmpfs", "/dev/shm", "mode=1777")?;
    make(Path::new("/run/lock"))?;
    for (kind, place, options) in OPTIONAL {
        let _ = put(kind, place, options);
    }
    for (tag, path) in &job.shares {
        let path = Path::new(OsStr::from_bytes(path));
        make(path)?;
        mount_named(tag, "9p", path, &format!("{TRANSPORT},cache=mmap"))?;
    }
    Ok(())
}

/// Makes `NEW` the root, as switch_root does: the overlay moves over the old root, whose other mounts are out of sight then.
fn enter() -> Result<()> {
    std::env::set_current_dir(NEW).context("entering the new root")?;
    mount_move(".", "/").context("moving the new root into place")?;
    rustix::process::chroot(".").context("making the overlay the root")?;
    std::env::set_current_dir("/").context("entering the root")
}

/// Trees of the overlay that are to be seen in spite of a fresh file system above them.
fn keep(job: &Job) -> Result<Vec<(PathBuf, OwnedFd)>> {
    let paths = job.keep.iter().map(|path| PathBuf::from(OsStr::from_bytes(path)));
    let mut kept = Vec::new();
    for path in hidden(paths.collect()) {
        let place = below(NEW, &path);
        if !place.is_dir() {
            continue;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &place, flags).with_context(|| format!("keeping {}", path.display()))?;
        kept.push((path, tree));
    }
    Ok(kept)
}

/// Of some paths, those that a fresh file system would hide, without those inside others.
fn hidden(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let inside = |path: &Path, top: &str| path.starts_with(top) && path != Path::new(top);
    paths.retain(|path| FRESH.iter().any(|top| inside(path, top)));
    paths.sort();
    let mut outer: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !outer.iter().any(|other| path.starts_with(other)) {
            outer.push(path);
        }
    }
    outer
}

/// Hands what was written to shares to the host.
pub fn write_back(job: &Job) {
    if !job.shares.is_empty() {
        rustix::fs::sync();
    }
}

fn below(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}

pub fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))
}

pub fn put(kind: &str, place: impl AsRef<Path>, options: &str) -> Result<()> {
    let place = place.as_ref();
    if place.starts_with("/dev") || place.starts_with("/sys") {
        // In sysfs the directory is there or the kernel lacks the feature; then mounting fails.
        let _ = fs::create_dir_all(place);
    }
    mount_named(kind, kind, place, options)
}

pub fn mount_named(source: &str, kind: &str, place: &Path, options: &str) -> Result<()> {
    let options = CString::new(options).context("mount options")?;
    mount(source, place, kind, MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("mounting {source} on {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_hidden_is_kept_and_once() {
        let given = [
            "/tmp/w/i3",
            "/home/me/src",
            "/tmp/w/i3/target",
            "/tmp",
            "/tmp/w/i30",
            "/run/user/0/x",
            "/tmpfile",
        ];
        let kept = hidden(given.iter().map(PathBuf::from).collect());
        assert_eq!(kept, ["/run/user/0/x", "/tmp/w/i3", "/tmp/w/i30"].map(PathBuf::from));
    }

    #[test]
    fn places_are_below_the_new_root() {
        assert_eq!(below("/run/root", Path::new("/tmp/x")), Path::new("/run/root/tmp/x"));
    }
}
