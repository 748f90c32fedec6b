//! The control group of a container (cgroup v2).

use super::device_filter;
use crate::error::{Doing, Result, failed};
use crate::machine::boot::CGROUP;
use guest_protocol::message::CgroupLimits;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io::ErrorKind;
use std::path::Path;

/// Most bytes of a cgroup file that are read.
const MAX_FILE: usize = 256 << 10;

/// A container's control group; removed with this value.
pub struct Cgroup {
    path: String,
    directory: OwnedFd,
    /// `memory.events`, whose changes poll(2) reports.
    events: Option<OwnedFd>,
    device_filter: Option<OwnedFd>,
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(Path::new(&self.path));
    }
}

/// Removes a cgroup with those below it that its container has made. Its processes have ended.
fn remove(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

impl Cgroup {
    /// Makes the group `name` without limits.
    ///
    /// # Errors
    /// When it exists, or cannot be made.
    pub fn new(name: &str) -> Result<Cgroup> {
        let path = format!("{CGROUP}/{name}");
        let what = || format!("make the cgroup {path}");
        rustix::fs::mkdir(path.as_str(), Mode::from_raw_mode(0o755)).doing(what)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path.as_str(), flags, Mode::empty()).doing(what)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let events = rustix::fs::openat(&directory, "memory.events", flags, Mode::empty()).ok();
        Ok(Cgroup { path, directory, events, device_filter: None })
    }

    /// The file whose POLLPRI says that something happened to its memory.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// How many processes the kernel has killed in it for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        // Through the very descriptor that is polled: reading it is what makes it wait for the next change.
        let mut buffer = [0; 512];
        let count =
            self.events.as_ref().map_or(0, |file| rustix::io::pread(file, &mut buffer, 0).unwrap_or(0));
        parse_oom_kills(&buffer[..count])
    }

    /// Sets these limits.
    ///
    /// # Errors
    /// When the kernel lacks a controller or refuses a value.
    pub fn apply(&mut self, limits: &CgroupLimits) -> Result<()> {
        for (file, value) in files(limits) {
            match self.write(file, &value) {
                // Without swap in the kernel there is nothing to limit.
                Err(e) if e.kind() == ErrorKind::NotFound && file == "memory.swap.max" => {}
                result => result.doing(|| format!("set {file} of the cgroup to {value:?}"))?,
            }
        }
        if let Some(weight) = limits.io_weight {
            let set = self.write("io.bfq.weight", &weight.to_string());
            set.or_else(|_| self.write("io.weight", &weight.to_string()))
                .doing(|| "set io.weight of the cgroup".into())?;
        }
        for (file, value) in &limits.files {
            if file.contains('/') {
                return Err(failed(format!("{file:?} is no file of a cgroup")));
            }
            self.write(file, value).doing(|| format!("set {file} of the cgroup to {value:?}"))?;
        }
        if !limits.devices.is_empty() {
            let old = self.device_filter.take();
            self.device_filter = Some(device_filter::install(self.as_fd(), &limits.devices, old)?);
        }
        Ok(())
    }

    fn write(&self, file: &str, value: &str) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, file, flags, Mode::empty())?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    /// Text of one of its files, empty when the kernel has no such file.
    pub fn read(&self, file: &str) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&self.directory, file, flags, Mode::empty()) else {
            return String::new();
        };
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = rustix::io::read(&file, &mut buffer) {
            text.extend_from_slice(&buffer[..count]);
            if text.len() > MAX_FILE {
                break;
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A file with one number; `max` is `u64::MAX`, a missing file 0.
    pub fn number(&self, file: &str) -> u64 {
        parse_number(&self.read(file))
    }

    /// A file with a key and a number on each line.
    pub fn pairs(&self, file: &str) -> Vec<(String, u64)> {
        parse_pairs(&self.read(file))
    }

    /// The pids of all processes in it and below it, as the machine numbers them.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        collect_pids(Path::new(&self.path), &mut pids, 16);
        pids.sort_unstable();
        pids
    }

    /// Kills every process in it and below it.
    ///
    /// # Errors
    /// When the kernel does not know cgroup.kill.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1").doing(|| "kill the cgroup".into())
    }
}

fn collect_pids(path: &Path, pids: &mut Vec<u32>, depth: usize) {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_pids(&entry.path(), pids, depth - 1);
        }
    }
}

/// File and text for each limit that is given, in the order in which they are written.
fn files(limits: &CgroupLimits) -> Vec<(&'static str, String)> {
    let max = |n: u64| if n == u64::MAX { "max".to_owned() } else { n.to_string() };
    let mut files = Vec::new();
    let mut put = |file, value: Option<String>| files.extend(value.map(|v| (file, v)));
    put("cpuset.cpus", limits.cpuset_cpus.clone());
    put("cpuset.mems", limits.cpuset_mems.clone());
    put("memory.max", limits.memory_max.map(max));
    put("memory.low", limits.memory_low.map(max));
    put("memory.swap.max", limits.swap_max.map(max));
    put("cpu.max", limits.cpu_max.map(|(quota, period)| format!("{} {period}", max(quota))));
    put("cpu.max.burst", limits.cpu_burst.map(|n| n.to_string()));
    // An idle group takes no weight, so idle comes first when it is turned off and last when it is turned on.
    let idle = limits.cpu_idle.map(|n| n.to_string());
    if limits.cpu_idle == Some(0) {
        put("cpu.idle", idle.clone());
    }
    put("cpu.weight", limits.cpu_weight.map(|n| n.to_string()));
    if limits.cpu_idle != Some(0) {
        put("cpu.idle", idle);
    }
    put("pids.max", limits.pids_max.map(max));
    files
}

/// `memory.events`: the number after `oom_kill`. With few steps, as it is looked at for every process that ends.
fn parse_oom_kills(events: &[u8]) -> u64 {
    let line = events.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"oom_kill "));
    line.unwrap_or_default()
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

fn parse_number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        number => number.parse().unwrap_or(0),
    }
}

fn parse_pairs(text: &str) -> Vec<(String, u64)> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// `io.stat`: (device, key, value).
pub fn parse_io(text: &str) -> Vec<(String, String, u64)> {
    let mut result = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next() else { continue };
        let values = words.filter_map(|w| w.split_once('=')).filter_map(|(k, v)| Some((k, v.parse().ok()?)));
        result.extend(values.map(|(key, value)| (device.to_owned(), key.to_owned(), value)));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_files() {
        let limits = CgroupLimits {
            memory_max: Some(1 << 20),
            pids_max: Some(u64::MAX),
            cpu_max: Some((u64::MAX, 100_000)),
            cpu_weight: Some(5),
            cpu_idle: Some(1),
            ..CgroupLimits::default()
        };
        let expected = [
            ("memory.max", "1048576"),
            ("cpu.max", "max 100000"),
            ("cpu.weight", "5"),
            ("cpu.idle", "1"),
            ("pids.max", "max"),
        ];
        assert_eq!(files(&limits), expected.map(|(f, v)| (f, v.to_owned())));
        let limits = CgroupLimits { cpu_idle: Some(0), cpu_weight: Some(5), ..CgroupLimits::default() };
        assert_eq!(files(&limits)[0].0, "cpu.idle");
        assert!(files(&CgroupLimits::default()).is_empty());
    }

    #[test]
    fn files_become_numbers() {
        assert_eq!(parse_number("max\n"), u64::MAX);
        assert_eq!(parse_number("4096\n"), 4096);
        assert_eq!(parse_number(""), 0);
        assert_eq!(parse_pairs("low 0\noom_kill 3\nbad\nx y\n"), [("low".into(), 0), ("oom_kill".into(), 3)]);
        assert_eq!(parse_oom_kills(b"oom 1\noom_kill 23\noom_group_kill 4\n"), 23);
        assert_eq!(
            (parse_oom_kills(b"oom_kill"), parse_oom_kills(b"oom_kill 99999999999999999999")),
            (0, u64::MAX)
        );
        let io = parse_io("254:0 rbytes=10 wbytes=20 bad\n\n259:1 rios=1\n");
        assert_eq!(io.len(), 3);
        assert_eq!(io[1], ("254:0".into(), "wbytes".into(), 20));
    }
}
