//! Gathers [`HostFacts`] by reading files: about a millisecond, no process started.

use crate::facts::{Cgroups, HostFacts, Kvm};
use crate::{Root, kvm_probe, mounts, probe_record, qemu, tsc};

/// Reads what a plan has to know about the host.
///
/// The dearest parts, which try KVM and measure the time stamp counter, run once per boot: what they find is kept below
/// `/run/clear-containers`, unless [`Root::without_probe_record`] says otherwise. What cannot be read counts as zero or absent; the checks say so.
#[must_use]
pub fn survey(root: &Root) -> HostFacts {
    let meminfo = root.read("/proc/meminfo").unwrap_or_default();
    HostFacts {
        arch: root.arch().to_owned(),
        cpus: allowed_cpus(root),
        memory_total_mib: mebibytes(&meminfo, "MemTotal:"),
        memory_available_mib: mebibytes(&meminfo, "MemAvailable:"),
        kvm: kvm(root),
        qemu: qemu::find(root),
        clear_vmm: root.companion("clear-vmm").or_else(|| root.program("clear-vmm")),
        pasta: root.program("pasta"),
        default_route: default_route(root),
        cgroups: cgroups(root),
        hostname: root.read("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        tsc_khz: probe_record::or_probe(root, "tsc", || tsc::khz(root)),
    }
}

/// How control groups are mounted, alone.
#[must_use]
pub fn cgroups(root: &Root) -> Cgroups {
    crate::cgroups::layout(&mounts::read(root))
}

fn kvm(root: &Root) -> Kvm {
    let device = root.path("/dev/kvm");
    // A missing or forbidden device is seen afresh each time, so its repair is too.
    if let Err(error) = kvm_probe::open(&device) {
        return Kvm::Unusable(error.to_string());
    }
    probe_record::or_probe(root, "kvm-probe", || match kvm_probe::run(&device) {
        Ok(()) => Kvm::Usable,
        Err(error) => Kvm::Unusable(error.to_string()),
    })
}

/// Whether there is a way to everywhere else, by the tables of proc_pid_net(5); flag 0x200 (RTF_REJECT) is one that leads nowhere.
fn default_route(root: &Root) -> bool {
    let table = |path: &str| root.read(path).unwrap_or_default();
    let leads = |flags: &str| u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 0x201 == 1);
    let ipv4 = table("/proc/self/net/route").lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields[..], [_, "00000000", _, flags, _, _, _, "00000000", ..] if leads(flags))
    });
    let ipv6 = || {
        table("/proc/self/net/ipv6_route").lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            matches!(fields[..], [to, "00", _, _, _, _, _, _, flags, _] if leads(flags) && to.bytes().all(|b| b == b'0'))
        })
    };
    ipv4 || ipv6()
}

/// A field of /proc/meminfo, which counts in KiB.
fn mebibytes(meminfo: &str, key: &str) -> u64 {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
    rest.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// CPUs in this process's affinity; at least the one it runs on.
fn allowed_cpus(root: &Root) -> u32 {
    let list = root.field("/proc/self/status", "Cpus_allowed_list:").unwrap_or_default();
    list.split(',').map(range_length).sum::<u32>().max(1)
}

/// `3` -> 1, `0-7` -> 8
fn range_length(range: &str) -> u32 {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => u32::from(last - first) + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;

    #[test]
    fn a_good_host() {
        let host = FakeHost::new();
        let facts = survey(&host.root());
        assert_eq!((facts.arch.as_str(), facts.cpus), ("x86_64", 4));
        assert_eq!((facts.memory_total_mib, facts.memory_available_mib), (16000, 12000));
        assert_eq!(facts.qemu.map(|qemu| qemu.version), Some((10, 0)));
        assert_eq!(facts.cgroups, Cgroups::V2("/sys/fs/cgroup".into()));
        assert_eq!(facts.kvm, Kvm::Usable);
    }

    #[test]
    fn an_empty_host_gives_facts_too() {
        let empty = tempfile::tempdir().unwrap();
        let facts = survey(&Root::at(empty.path()));
        assert_eq!((facts.cpus, facts.memory_total_mib, facts.qemu), (1, 0, None));
        assert!(matches!(facts.kvm, Kvm::Unusable(why) if why.contains("does not exist")));
        assert!(matches!(facts.cgroups, Cgroups::None(_)));
    }

    #[test]
    fn a_device_that_is_not_kvm_is_probed_and_refused() {
        let host = FakeHost::new();
        host.forget_probe();
        assert!(matches!(survey(&host.root()).kvm, Kvm::Unusable(why) if why.contains("not the KVM device")));
    }

    #[test]
    fn routes() {
        let host = FakeHost::new();
        assert!(survey(&host.root()).default_route);
        let line = |destination: &str, flags: &str, mask: &str| {
            host.write(
                "/proc/self/net/route",
                &format!("Iface\t..\neth0 {destination} 010200C0 {flags} 0 0 0 {mask} 0 0 0\n"),
            );
            survey(&host.root()).default_route
        };
        assert!(line("00000000", "0003", "00000000"));
        assert!(!line("000200C0", "0001", "00FFFFFF") && !line("00000000", "0201", "00000000"));
        let (zero, router) = ("0".repeat(32), "fe80000000000000".repeat(2));
        let line = |to: &str, length: &str, flags: &str| {
            let rest = format!("{zero} 00 {router} 00000400 00000001 00000000 {flags} eth0");
            host.write("/proc/self/net/ipv6_route", &format!("{to} {length} {rest}\n"));
            survey(&host.root()).default_route
        };
        assert!(line(&zero, "00", "00000003"));
        assert!(!line(&zero, "00", "00200200") && !line(&router, "40", "00000001"));
    }

    #[test]
    fn cpu_lists() {
        let host = FakeHost::new();
        for (list, count) in [("0", 1), ("0-1,4", 3), ("", 1), ("9-3", 1), ("0-70000", 1)] {
            host.write("/proc/self/status", &format!("Name:\tx\nCpus_allowed_list:\t{list}\n"));
            assert_eq!(allowed_cpus(&host.root()), count, "{list}");
        }
    }

    #[test]
    fn this_host() {
        let facts = survey(&Root::host().without_probe_record());
        assert!(
            facts.cpus >= 1
                && facts.memory_total_mib > 0
                && facts.memory_available_mib <= facts.memory_total_mib
        );
    }
}
