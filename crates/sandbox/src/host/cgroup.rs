//! The host's control group of a container, on cgroup v1 hierarchies or on v2.
//!
//! The keeper joins it first, so the VMM is born in it and engines find the machine's real cost in the group of the
//! pid they know. Limits are those of the whole machine.

use super::HostError;
use super::undo::{self, Undo};
use crate::plan::HostLimits;
use crate::state::StateDir;
use host_check::facts::Cgroups;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the processes of a control group may take to die.
const REMOVAL: Duration = Duration::from_secs(10);

/// Parent of the control groups of containers that name none. Only ours are below it.
const OWN_PARENT: &str = "clear-containers";

/// How often a directory is made anew when another container's removal takes its parent away.
const ATTEMPTS: usize = 100;

/// The directories that make up control group `path`, one per hierarchy.
pub fn directories(cgroups: &Cgroups, path: &Path) -> Vec<PathBuf> {
    let below = path.strip_prefix("/").unwrap_or(path);
    match cgroups {
        Cgroups::V2(root) => vec![root.join(below)],
        Cgroups::V1(controllers) => {
            // Controllers mounted together (cpu,cpuacct) share a directory.
            let roots: BTreeSet<_> = controllers.values().collect();
            roots.into_iter().map(|root| root.join(below)).collect()
        }
        Cgroups::None(_) => Vec::new(),
    }
}

/// Makes the control group, limits it and moves this process into it.
///
/// # Errors
/// When a directory or file cannot be written. What was made is on the undo list.
pub fn enter(dir: &StateDir, cgroups: &Cgroups, path: &Path, limits: &HostLimits) -> Result<(), HostError> {
    for directory in directories(cgroups, path) {
        if let Some(parent) = directory.parent().filter(|p| p.ends_with(OWN_PARENT)) {
            // Whoever deletes the last container below it removes it, not only whoever made it.
            undo::note(dir, &Undo::Cgroup(parent.to_path_buf()))?;
        }
        make(dir, cgroups, &directory)?;
        if fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|procs| !procs.is_empty()) {
            return Err(HostError::Occupied { path: directory });
        }
    }
    apply(cgroups, path, limits)?;
    join(cgroups, path)
}

/// Moves this process into the control group.
///
/// # Errors
/// When the group does not exist or refuses.
pub fn join(cgroups: &Cgroups, path: &Path) -> Result<(), HostError> {
    for directory in directories(cgroups, path) {
        let procs = directory.join("cgroup.procs");
        fs::write(&procs, "0").map_err(HostError::path("joining control group", &procs))?;
    }
    Ok(())
}

/// Makes a directory and its parents; notes each before it exists.
fn make(dir: &StateDir, cgroups: &Cgroups, directory: &Path) -> Result<(), HostError> {
    for _ in 1..ATTEMPTS {
        match try_make(dir, cgroups, directory) {
            Err(HostError::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    try_make(dir, cgroups, directory)
}

fn try_make(dir: &StateDir, cgroups: &Cgroups, directory: &Path) -> Result<(), HostError> {
    let mut missing: Vec<&Path> = directory.ancestors().take_while(|d| !d.exists()).collect();
    while let Some(next) = missing.pop() {
        undo::note(dir, &Undo::Cgroup(next.to_path_buf()))?;
        if let (Cgroups::V2(_), Some(parent)) = (cgroups, next.parent()) {
            for controller in ["cpu", "cpuset", "memory", "pids", "io"] {
                // A controller that is absent or held by another group: its limits will fail by name if they are wanted.
                let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        match fs::create_dir(next) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(HostError::path("creating control group", next)(e));
            }
            _ => {}
        }
        inherit_cpuset(next)?;
    }
    Ok(())
}

/// A new cpuset group of v1 is empty and takes no process until it has CPUs and memory nodes.
fn inherit_cpuset(directory: &Path) -> Result<(), HostError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        let (Some(parent), true) = (directory.parent(), file.exists()) else { continue };
        if parent.join("cgroup.controllers").exists() {
            return Ok(());
        }
        let inherited = fs::read_to_string(parent.join(name)).unwrap_or_default();
        if !inherited.trim().is_empty() {
            fs::write(&file, inherited.trim()).map_err(HostError::path("writing", &file))?;
        }
    }
    Ok(())
}

/// Writes limits into an existing control group.
///
/// # Errors
/// When a limit that was asked for cannot be set.
pub fn apply(cgroups: &Cgroups, path: &Path, limits: &HostLimits) -> Result<(), HostError> {
    for (file, value) in files(cgroups, path, limits) {
        fs::write(&file, value).map_err(HostError::path("setting a limit in", &file))?;
    }
    Ok(())
}

/// Limits the memory of a control group to `room` bytes more than its processes use now; caches of files give way. Returns the limit, or
/// `None` where no memory is accounted.
///
/// # Errors
/// When the kernel does not tell the use, or refuses the limit.
pub fn tighten(cgroups: &Cgroups, path: &Path, room: u64) -> io::Result<Option<u64>> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let (directory, no_swap, limit) = match cgroups {
        Cgroups::V2(root) => (root.join(below), "memory.swap.max", "memory.max"),
        Cgroups::V1(controllers) => match controllers.get("memory") {
            Some(root) => (root.join(below), "memory.swappiness", "memory.limit_in_bytes"),
            None => return Ok(None),
        },
        Cgroups::None(_) => return Ok(None),
    };
    let statistics = fs::read_to_string(directory.join("memory.stat"))?;
    let bytes = used(&statistics) + room;
    // Absent where there is no swap.
    let _ = fs::write(directory.join(no_swap), "0");
    fs::write(directory.join(limit), bytes.to_string())?;
    Ok(Some(bytes))
}

/// Bytes of a `memory.stat` that cannot be dropped: memory of processes and, as far as it is told, of the kernel for them.
fn used(statistics: &str) -> u64 {
    let words = statistics.lines().filter_map(|line| line.split_once(' '));
    let counted = words.filter(|(name, _)| ["anon", "kernel", "shmem", "rss"].contains(name));
    counted.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum()
}

/// The files to write for `limits`, with their values. Pure.
fn files(cgroups: &Cgroups, path: &Path, limits: &HostLimits) -> Vec<(PathBuf, String)> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let place = |controller: &str| match cgroups {
        Cgroups::V2(root) => Some(root.join(below)),
        Cgroups::V1(controllers) => controllers.get(controller).map(|root| root.join(below)),
        Cgroups::None(_) => None,
    };
    let v2 = matches!(cgroups, Cgroups::V2(_));
    let mut files = Vec::new();
    let mut put = |controller: &str, name: &str, value: String| {
        if let Some(directory) = place(controller) {
            files.push((directory.join(name), value));
        }
    };
    if let Some(bytes) = limits.memory_max {
        let unlimited = bytes == u64::MAX;
        match v2 {
            true => put("memory", "memory.max", if unlimited { "max".into() } else { bytes.to_string() }),
            false => put(
                "memory",
                "memory.limit_in_bytes",
                if unlimited { "-1".into() } else { bytes.to_string() },
            ),
        }
    }
    if let Some((quota, period)) = limits.cpu_max {
        let unlimited = quota == u64::MAX;
        if v2 {
            let quota = if unlimited { "max".to_string() } else { quota.to_string() };
            put("cpu", "cpu.max", format!("{quota} {period}"));
        } else {
            put("cpu", "cpu.cfs_period_us", period.to_string());
            put("cpu", "cpu.cfs_quota_us", if unlimited { "-1".into() } else { quota.to_string() });
        }
    }
    if let Some(shares) = limits.cpu_shares {
        match v2 {
            // The kernel's scales: shares 2..=262144 to weight 1..=10000.
            true => {
                put("cpu", "cpu.weight", (1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142).to_string())
            }
            false => put("cpu", "cpu.shares", shares.to_string()),
        }
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        put("cpuset", "cpuset.cpus", cpus.clone());
    }
    if let Some(mems) = &limits.cpuset_mems {
        put("cpuset", "cpuset.mems", mems.clone());
    }
    files
}

/// Ends what still runs in a control group's directory and removes it. A missing one is fine; one with groups of others
/// below it stays, as it is not only ours.
///
/// # Errors
/// When processes do not die in time, or the directory cannot be removed.
pub fn remove(directory: &Path) -> Result<(), HostError> {
    let deadline = Instant::now() + REMOVAL;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && has_children(directory) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                kill_all(directory);
                // The kernel offers no event on a v1 hierarchy for "the last process is gone".
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                return Err(HostError::Busy { path: directory.to_path_buf(), seconds: REMOVAL.as_secs() });
            }
            Err(e) => return Err(HostError::path("removing control group", directory)(e)),
        }
    }
}

fn has_children(directory: &Path) -> bool {
    fs::read_dir(directory).into_iter().flatten().flatten().any(|e| e.file_type().is_ok_and(|t| t.is_dir()))
}

/// Sends SIGKILL to every process of a control group.
pub fn kill_all(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_dropped_is_counted() {
        assert_eq!(used("anon 100\nfile 5000\nkernel 30\nshmem 7\nanon_thp 64\n"), 137);
        assert_eq!(used("cache 5000\nrss 100\nrss_huge 64\nshmem 7\nmapped_file 9\n"), 107);
    }

    fn limits() -> HostLimits {
        HostLimits {
            memory_max: Some(1 << 30),
            cpu_max: Some((u64::MAX, 100_000)),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: None,
        }
    }

    fn as_text(files: &[(PathBuf, String)]) -> String {
        files.iter().map(|(p, v)| format!("{}={v}\n", p.display())).collect()
    }

    #[test]
    fn v2_files() {
        let text = as_text(&files(&Cgroups::V2("/c".into()), Path::new("/a/b"), &limits()));
        assert_eq!(
            text,
            "/c/a/b/memory.max=1073741824\n/c/a/b/cpu.max=max 100000\n/c/a/b/cpu.weight=39\n/c/a/b/cpuset.cpus=0-1\n"
        );
    }

    #[test]
    fn v1_files_only_of_mounted_controllers() {
        let v1 = Cgroups::V1([("memory".into(), "/m".into()), ("cpu".into(), "/cpu".into())].into());
        let text = as_text(&files(&v1, Path::new("/a"), &limits()));
        assert_eq!(
            text,
            "/m/a/memory.limit_in_bytes=1073741824\n/cpu/a/cpu.cfs_period_us=100000\n/cpu/a/cpu.cfs_quota_us=-1\n/cpu/a/cpu.shares=1024\n"
        );
    }
}
