//! The first things that PID 1 does: virtual file systems, a root that containers can leave, control groups, loopback.

use super::files;
use crate::error::{Doing, Result, cause};
use crate::{log, sys};
use guest_protocol::message::Stamp;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CStr;

/// Where the machine keeps what it mounts for containers.
pub const RUN: &str = "/run/clear";

/// Directory on which a container's first process mounts its root, in its own mount namespace.
pub const ROOT: &str = "/run/clear/root";

/// Below it, disks are mounted by their serial.
pub const DISKS: &str = "/run/clear/disk";

/// Root of the control groups.
pub const CGROUP: &str = "/sys/fs/cgroup";

/// A stamp of now.
pub fn stamp(name: &str) -> Stamp {
    Stamp { name: name.to_owned(), boottime_us: sys::boottime_us() }
}

/// Mounts what the machine needs. Works on a writable initramfs and on a read-only image with the directories in it.
///
/// # Errors
/// When the machine would be useless without it.
pub fn mount_all() -> Result<()> {
    for dir in ["/dev", "/proc", "/sys", "/run"] {
        // Exists in an image; a missing one shows itself at the mount.
        let _ = rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755));
    }
    leave_rootfs()?;
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755")?;
    mount("proc", "/proc", quiet | MountFlags::NODEV, c"")?;
    mount("sysfs", "/sys", quiet | MountFlags::NODEV, c"")?;
    // Containers' shares are mounted below /run, so programs and devices must be possible there.
    mount("tmpfs", "/run", MountFlags::NOSUID, c"mode=0755")?;
    for dir in [RUN, ROOT, "/run/clear/share", DISKS] {
        rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755)).doing(|| format!("make directory {dir}"))?;
    }
    mount("cgroup2", CGROUP, quiet | MountFlags::NODEV, c"")?;
    enable_controllers();
    overcommit();
    Ok(())
}

/// Lets containers' groups have every controller that this kernel knows and containers can use, in one write: each one
/// makes the kernel walk all groups.
fn enable_controllers() {
    const USEFUL: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];
    let mut buffer = [0; 256];
    let known = files::read("/sys/fs/cgroup/cgroup.controllers", &mut buffer).unwrap_or_default();
    let mut enable = String::with_capacity(64);
    for controller in known.split_ascii_whitespace().filter(|c| USEFUL.contains(c)) {
        enable.push('+');
        enable.push_str(controller);
        enable.push(' ');
    }
    if let Err(e) = files::write("/sys/fs/cgroup/cgroup.subtree_control", &enable) {
        log::warn(&format!("enable control group controllers: {}", cause(e)));
    }
}

/// Lets programs reserve more memory than the machine has, as a host with plenty does: the machine is as small as the container's limit, and
/// what a program touches beyond that is what the limit is for.
fn overcommit() {
    // Always (1), of Documentation/mm/overcommit-accounting.rst.
    if let Err(e) = files::write("/proc/sys/vm/overcommit_memory", "1") {
        log::warn(&format!("let programs reserve memory: {}", cause(e)));
    }
}

/// Room for the pipes of many processes. Each child goes back to [`CHILD_FILES`].
pub fn raise_file_limit() {
    const FILES: u64 = 65_536;
    if let Err(e) =
        sys::set_limit(rustix::process::getpid(), libc::RLIMIT_NOFILE, FILES, CHILD_FILES.1.max(FILES))
    {
        log::warn(&format!("raise the limit of open files: {e}"));
    }
}

/// Soft and hard RLIMIT_NOFILE of a container's process unless the host gives another: what systemd gives to services.
pub const CHILD_FILES: (u64, u64) = (1024, 524_288);

fn mount(fstype: &str, target: &str, flags: MountFlags, data: &CStr) -> Result<()> {
    match rustix::mount::mount(fstype, target, fstype, flags, data) {
        // The kernel has mounted /dev itself.
        Err(rustix::io::Errno::BUSY) => Ok(()),
        result => result.doing(|| format!("mount {fstype} at {target}")),
    }
}

/// An initramfs is the kernel's own root mount, which pivot_root(2) cannot leave: bind it over itself and go there. Read-only,
/// so that nobody writes to the agent's program through /proc.
fn leave_rootfs() -> Result<()> {
    /// RAMFS_MAGIC and TMPFS_MAGIC of `include/uapi/linux/magic.h`.
    const IN_MEMORY: [i64; 2] = [0x8584_58f6, 0x0102_1994];
    let look = || "look at /".to_owned();
    if rustix::fs::major(rustix::fs::stat("/").doing(look)?.st_dev) != 0 {
        return Ok(()); // an image on a disk
    }
    let kind = rustix::fs::statfs("/").doing(look)?.f_type;
    if !IN_MEMORY.contains(&(kind as i64)) {
        return Ok(());
    }
    let what = || "bind the initramfs over itself".to_owned();
    let readonly = MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount("/", readonly, c"").doing(what)?;
    rustix::mount::mount_bind("/", "/run").doing(what)?;
    rustix::mount::mount_remount("/run", readonly, c"").doing(what)?;
    rustix::process::chdir("/run").doing(what)?;
    rustix::mount::mount_move(".", "/").doing(what)?;
    rustix::process::chroot(".").doing(what)?;
    rustix::process::chdir("/").doing(what)
}

/// Puts /dev/null at the standard files, so that no later file gets their numbers.
///
/// # Errors
/// When /dev/null cannot be opened.
pub fn null_stdio() -> Result<()> {
    // What the kernel opened there is the console. Its last close would wait for the serial port and shut it down, so
    // the agent keeps it; children get no such file.
    if let Ok(console) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) {
        std::mem::forget(console);
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open /dev/null".into())?;
    for number in 0..3 {
        use rustix::fd::{AsFd, AsRawFd};
        if null.as_raw_fd() != number {
            sys::put_at(null.as_fd(), number).doing(|| "set the standard files".into())?;
        }
    }
    use rustix::fd::{AsRawFd, IntoRawFd};
    if null.as_raw_fd() < 3 {
        // It has become one of the standard files and stays open.
        let _ = null.into_raw_fd();
    }
    Ok(())
}

/// Brings the loopback interface up.
pub fn loopback_up() {
    use rustix::fd::AsFd;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let up = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| sys::interface_up(socket.as_fd(), "lo"));
    if let Err(e) = up {
        log::debug(&format!("bring lo up: {e}"));
    }
}

/// Unmounts the disks, if there are any, best effort, so that the next machine finds them clean.
pub fn unmount_disks() {
    if !super::shares::has_disks() {
        return;
    }
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else { return };
    for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if target.starts_with(DISKS) {
            let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
        }
    }
}
