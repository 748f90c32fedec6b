//! A part of the host for engines alone. They want the system's own paths, change firewall and bridges, and leave processes behind; in here
//! they have a network, processes and directories of their own, which are gone with the last process.
//!
//! ```text
//!   the test program ─ unshare(1) ─► PID 1: reaps, ends when the tests end ─► the test program again, which runs the tests
//!                                     network, mount, pid and uts namespaces; control groups are the host's, and looked after
//! ```

use crate::programs::Programs;
use crate::wait::until;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount,
    open_tree,
};
use rustix::process::WaitOptions;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Says which of the three this process is.
const STAGE: &str = "CLEAR_TEST_ARENA";

/// Directories that engines and users write configuration and programs to: changes are gone afterwards.
const OVERLAID: [&str; 3] = ["/etc", "/usr/local", "/var/lib"];

/// Where engines keep containers and images: on overlays they could make none of their own. Not below the list above.
const FRESH: [&str; 5] =
    ["/run", "/var/lib/cni", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker"];

/// Top control groups that engines make and keep.
const OF_ENGINES: [&str; 4] = ["buildah", "default", "docker", "libpod_parent"];

/// Where the runtime looks for mini-OSes.
const STORE: &str = "/var/lib/clear-containers/mini-os";

/// A part of the host in which this process is.
#[derive(Debug)]
pub struct Arena {
    groups: BTreeSet<PathBuf>,
}

/// Goes into an arena: starts this program again in there and ends with it; in there, returns.
///
/// # Panics
/// When the kernel does not let it.
pub fn enter() -> Arena {
    let own = std::env::current_exe().expect("the path of this program");
    let again = |stage: &str| {
        let mut command = Command::new(&own);
        command.args(std::env::args_os().skip(1)).env(STAGE, stage);
        command
    };
    match std::env::var(STAGE).as_deref() {
        Err(_) => {
            let mut command = Command::new("unshare");
            command.args(["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]);
            command.arg("--").arg(&own).args(std::env::args_os().skip(1)).env(STAGE, "init");
            panic!("starting unshare: {}", command.exec())
        }
        Ok("init") => exit(init(&mut again("tests"))),
        Ok(_) => Arena::settle(),
    }
}

/// PID 1: starts the tests and takes every process that nobody waits for.
fn init(tests: &mut Command) -> i32 {
    let tests = tests.spawn().expect("starting the tests").id();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().unsigned_abs() == tests => {
                return status.exit_status().unwrap_or(1);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
}

impl Arena {
    /// Makes the arena's directories and configures the runtime.
    fn settle() -> Self {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .expect("private mounts");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let store = open_tree(CWD, &Programs::get().store, flags).expect("the store of mini-OSes");
        let upper = "/mnt";
        fresh(upper);
        for place in OVERLAID {
            overlay(place, &Path::new(upper).join(place.replace('/', "-")));
        }
        FRESH.into_iter().for_each(fresh);
        // Engines call the runtime with few variables, so it looks for mini-OSes in the usual place.
        fs::create_dir_all(STORE).expect("a directory");
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&store, "", CWD, STORE, flags).expect("showing the store of mini-OSes");
        mount_change("/run", MountPropagationFlags::SHARED).expect("a shared /run");
        mount_hugetlb();
        run("ip", &["link", "set", "lo", "up"]);
        configure();
        Arena { groups: groups() }
    }

    /// What is left when every engine has ended: processes, and control groups other than those that engines keep for themselves. Removes
    /// the groups.
    pub fn left(&self) -> Vec<String> {
        let mut left = processes();
        let mut groups: Vec<_> = groups().difference(&self.groups).cloned().collect();
        groups.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
        for group in groups {
            // With processes in it, it is one of an engine of the host, at work outside of this arena; of ours there are none any more.
            if of_a_container(&group) && is_abandoned(&group) {
                left.push(format!("control group {}", group.display()));
            }
            if OF_ENGINES.iter().any(|name| group.iter().any(|part| part == *name)) {
                let _ = fs::remove_dir(&group);
            }
        }
        left
    }
}

/// Whether a control group is one that an engine asked the runtime for.
fn of_a_container(group: &Path) -> bool {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    let below = |parent: &str| group.parent().is_some_and(|directory| directory.ends_with(parent));
    name.starts_with("libpod-") || name.starts_with("buildah-") || below("docker") || below("default")
}

/// Whether a control group is there and empty, now and some seconds later: so one that is being made or removed is none.
fn is_abandoned(group: &Path) -> bool {
    let empty = || fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty());
    (0..4).all(|_| {
        std::thread::sleep(std::time::Duration::from_millis(500));
        empty()
    })
}

/// Kills whatever is left, so that the groups can go.
#[expect(unsafe_code, reason = "kill(-1) has no safe form")]
pub fn clear() {
    // SAFETY: kill takes plain numbers; -1 is every process of this namespace but the first and this one.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    until("the end of what was killed", || processes().is_empty().then_some(()));
}

/// Programs that are neither PID 1 nor this one.
fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if pid != 1 && pid != std::process::id() && !line.is_empty() {
            found.push(format!("process {pid}: {}", String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    found
}

/// Control groups of every hierarchy.
fn groups() -> BTreeSet<PathBuf> {
    fn below(directory: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), found);
                found.insert(entry.path());
            }
        }
    }
    let mut found = BTreeSet::new();
    below(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// The programs under test in `/usr/local/bin`, and the configuration that the machine's administrator would write.
fn configure() {
    let programs = Programs::get();
    for name in ["cor", "clear-vmm"] {
        fs::copy(programs.directory.join(name), Path::new("/usr/local/bin").join(name))
            .expect("installing a program");
    }
    let mut text = format!("[mini_os]\nname = {:?}\n", programs.mini_os);
    if !programs.machine.is_empty() {
        text += "[machine]\n";
        programs.machine.iter().for_each(|(key, value)| text += &format!("{key} = {value:?}\n"));
    }
    fs::create_dir_all("/etc/clear-containers").expect("/etc/clear-containers");
    fs::write("/etc/clear-containers/configuration.toml", text).expect("the configuration");
}

/// Mounts the hierarchy of hugetlb unless it is mounted somewhere: containerd tells nothing of a container's use as long as it is not.
/// A host whose version 2 has it in use keeps it.
fn mount_hugetlb() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc/self/mounts");
    let has_version_1 = mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup"));
    if has_version_1 && !mounts.contains("hugetlb") {
        let place = "/run/cgroup-hugetlb";
        fs::create_dir(place).expect("a directory");
        let _ = mount("cgroup", place, "cgroup", MountFlags::empty(), c"hugetlb");
    }
}

fn fresh(place: &str) {
    fs::create_dir_all(place).unwrap_or_else(|error| panic!("making {place}: {error}"));
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), c"mode=755")
        .unwrap_or_else(|error| panic!("mounting {place}: {error}"));
}

fn overlay(place: &str, layers: &Path) {
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    for directory in [&upper, &work] {
        fs::create_dir_all(directory).expect("a directory in memory");
    }
    let options = format!("lowerdir={place},upperdir={},workdir={}", upper.display(), work.display());
    let options = CString::new(options).expect("mount options");
    mount("overlay", place, "overlay", MountFlags::empty(), options.as_c_str())
        .unwrap_or_else(|error| panic!("an overlay on {place}: {error}"));
}

fn run(program: &str, args: &[&str]) {
    crate::command::Command::new(program).args(args).ok();
}
