//! Usage of a container and of the machine around it.

use super::cgroup::{Cgroup, parse_io};
use guest_protocol::message::Statistics;

/// Longest lists that are sent: a reply has a bounded size.
const MAX_ENTRIES: usize = 256;

/// Reads everything.
pub fn read(cgroup: &Cgroup) -> Statistics {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut io = parse_io(&cgroup.read("io.stat"));
    io.truncate(MAX_ENTRIES);
    Statistics {
        cpu: cgroup.pairs("cpu.stat"),
        memory_current: cgroup.number("memory.current"),
        memory_peak: cgroup.number("memory.peak"),
        memory_max: cgroup.number("memory.max"),
        swap_current: cgroup.number("memory.swap.current"),
        memory: cgroup.pairs("memory.stat"),
        memory_events: cgroup.pairs("memory.events"),
        pids_current: cgroup.number("pids.current"),
        pids_max: cgroup.number("pids.max"),
        io,
        machine_memory: (meminfo_bytes(&meminfo, "MemTotal:"), meminfo_bytes(&meminfo, "MemAvailable:")),
        agent_resident: meminfo_bytes(
            &std::fs::read_to_string("/proc/self/status").unwrap_or_default(),
            "VmRSS:",
        ),
        network: interfaces(&std::fs::read_to_string("/proc/net/dev").unwrap_or_default()),
    }
}

fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Name, received bytes and packets, sent bytes and packets of each interface in /proc/net/dev.
fn interfaces(text: &str) -> Vec<(String, u64, u64, u64, u64)> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [received, received_packets, .., sent, sent_packets, _, _, _, _, _, _] = counters[..] else {
            return None;
        };
        Some((name.trim().to_owned(), received, received_packets, sent, sent_packets))
    };
    text.lines().filter_map(interface).take(MAX_ENTRIES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_files_are_understood() {
        let meminfo = "MemTotal:         245760 kB\nMemAvailable:    200000 kB\n";
        assert_eq!(meminfo_bytes(meminfo, "MemAvailable:"), 200_000 * 1024);
        assert_eq!(meminfo_bytes(meminfo, "SwapFree:"), 0);
        let dev = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets\n    lo:  10  1 0 0 0 0 0 0  20 2 0 0 0 0 0 0\n  eth0: 7 8 0 0 0 0 0 0 9 10 0 0 0 0 0 0\n";
        assert_eq!(interfaces(dev), [("lo".into(), 10, 1, 20, 2), ("eth0".into(), 7, 8, 9, 10)]);
    }
}
