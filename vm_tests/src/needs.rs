//! What a test needs that not every host has: it says in one line that it is skipped, and why.

use crate::sandbox::Sandbox;
use serde_json::Value;
use std::io::Write;

/// Whether this host reaches Debian's archive, which tests that unpack its packages need: not in the lab, which has no network. Says so.
pub fn on_network() -> bool {
    let there = std::env::var_os("CLEAR_LAB").is_none();
    if !there {
        skipped("the lab has no network");
    }
    there
}

/// Says why a test does nothing: past the test harness, which names the thread by the test, and keeps what a passed test prints to itself.
fn skipped(why: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "{}: skipped: {why}", thread.name().unwrap_or("test"));
}

/// Whether containerd can read control groups here: not where hugetlb is neither of version 2 nor mounted, as it then reads none. Says so.
pub fn on_readable_groups() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    // Name, hierarchy (0 is version 2), groups, enabled.
    let astray = read("/proc/cgroups").lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields[..], ["hugetlb", hierarchy, ..] if hierarchy != "0")
    });
    let mounted =
        read("/proc/self/cgroup").contains("hugetlb") && read("/proc/self/mounts").contains("hugetlb");
    let version_2 = read("/sys/fs/cgroup/unified/cgroup.controllers").contains("hugetlb");
    if (astray || version_2) && !mounted {
        skipped("hugetlb has no mounted hierarchy, so containerd reads no statistics");
        return false;
    }
    true
}

/// Whether Podman's pods can have programs here: not where it manages control groups of version 2 itself, without systemd, as it lets
/// none of a pod's processes open a device then (with runc neither). Says so.
pub fn on_podmans_pods() -> bool {
    let unusable = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if unusable {
        skipped(
            "without systemd Podman forbids a pod of control groups v2 every device, /dev/null and /dev/kvm too",
        );
    }
    !unusable
}

/// The surroundings of a test of machines; nothing, and a line that says so, where KVM cannot run a guest.
///
/// # Panics
/// In the lab, where it must.
pub fn on_kvm() -> Option<Sandbox> {
    let sandbox = Sandbox::new();
    let report = sandbox.cor(&["check", "--json"]).run().text();
    let report: Value = serde_json::from_str(&report).expect("cor check prints JSON");
    let findings = report["findings"].as_array().expect("findings");
    let kvm = findings.iter().find(|finding| finding["name"] == "kvm").expect("a finding for kvm");
    if kvm["level"] == "pass" {
        return Some(sandbox);
    }
    assert!(std::env::var_os("CLEAR_LAB").is_none(), "the lab has no KVM: {kvm}");
    skipped(&format!("{}; in the lab: cargo xtask ci --only lab", kvm["what"].as_str().unwrap_or("no KVM")));
    None
}
