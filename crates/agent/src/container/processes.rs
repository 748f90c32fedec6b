//! The processes of a container, as its own pid namespace numbers them.

use super::cgroup::Cgroup;
use crate::error::cut;
use guest_protocol::message::ProcessInfo;
use std::collections::BTreeMap;

/// Most processes that are listed ([`guest_protocol::message::Reply::Processes`]).
const MAX_PROCESSES: usize = 2048;
/// Longest command line that is shown, in bytes.
const MAX_COMMAND: usize = 256;
/// Bytes of all command lines together, so that a reply with all processes fits its frame.
const MAX_COMMANDS: usize = 128 << 10;
/// USER_HZ, the same for all architectures that Linux' ABI lets user space see.
const TICKS_PER_SECOND: u64 = 100;

/// Lists them, the oldest first.
pub fn list(cgroup: &Cgroup) -> Vec<ProcessInfo> {
    let read = |pid: u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let text = |pid, file| String::from_utf8_lossy(&read(pid, file)).into_owned();
    let pids: Vec<u32> = cgroup.pids().into_iter().take(MAX_PROCESSES).collect();
    let status: Vec<Status> =
        pids.iter().filter_map(|pid| parse_status(*pid, &text(*pid, "status"))).collect();
    let inside: BTreeMap<u32, u32> = status.iter().map(|s| (s.outer_pid, s.pid)).collect();
    let mut left = MAX_COMMANDS;
    let mut list: Vec<ProcessInfo> = status
        .iter()
        .map(|s| {
            let (cpu_ms, started_s) = parse_stat(&text(s.outer_pid, "stat"));
            let command = command(&read(s.outer_pid, "cmdline"), &s.name);
            let command = cut(&command, left.min(MAX_COMMAND)).to_owned();
            left -= command.len();
            let parent = inside.get(&s.outer_parent).copied().unwrap_or(0);
            ProcessInfo { pid: s.pid, parent, uid: s.uid, cpu_ms, started_s, command }
        })
        .collect();
    list.sort_by_key(|p| (p.started_s, p.pid));
    list
}

struct Status {
    outer_pid: u32,
    outer_parent: u32,
    pid: u32,
    uid: u32,
    name: String,
}

fn parse_status(outer_pid: u32, text: &str) -> Option<Status> {
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    Some(Status {
        outer_pid,
        outer_parent: field("PPid:")?.parse().ok()?,
        // One number for each pid namespace: the machine's, the container's, and maybe of some that it has made.
        pid: field("NSpid:")?.split_whitespace().nth(1)?.parse().ok()?,
        uid: field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?,
        name: field("Name:").unwrap_or("").to_owned(),
    })
}

/// CPU time in milliseconds and start in seconds after boot, from /proc/PID/stat.
fn parse_stat(text: &str) -> (u64, u64) {
    // The name in parentheses may hold anything, even a parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    ((number(11) + number(12)) * 1000 / TICKS_PER_SECOND, number(19) / TICKS_PER_SECOND)
}

fn command(cmdline: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(cmdline);
    let text = text.trim_end_matches('\0').replace('\0', " ");
    if text.is_empty() { format!("[{name}]") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_stat_are_understood() {
        let status = "Name:\tsh\nPid:\t77\nPPid:\t70\nUid:\t0\t1000\t0\t0\nNSpid:\t77\t5\n";
        let status = parse_status(77, status).unwrap();
        assert_eq!((status.pid, status.outer_parent, status.uid, status.name.as_str()), (5, 70, 1000, "sh"));
        assert!(parse_status(1, "Name:\tx\nPPid:\t0\nUid:\t0 0 0 0\nNSpid:\t1\n").is_none());
        let stat = "77 (a) b) S 70 77 77 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 1234 5 6";
        assert_eq!(parse_stat(stat), (2000, 12));
        assert_eq!(parse_stat("garbage"), (0, 0));
    }

    #[test]
    fn commands_are_joined_by_blanks() {
        assert_eq!(command(b"sh\0-c\0true\0", "sh"), "sh -c true");
        assert_eq!(command(b"", "zombie"), "[zombie]");
    }
}
