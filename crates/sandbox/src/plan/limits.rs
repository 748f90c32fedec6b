//! OCI resources, which speak cgroup v1, as the files of cgroup v2.

use super::PlanError;
use super::size::DEFAULT_PERIOD_US;
use guest_protocol::message::CgroupLimits;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

/// What stands for `max`.
const MAX: u64 = u64::MAX;

/// Limits for the container's cgroup in the guest, without device rules. Also for `update`.
///
/// # Errors
/// Limits that contradict each other, or cannot be read.
pub fn guest_limits(
    resources: &LinuxResources,
    warnings: &mut Vec<String>,
) -> Result<CgroupLimits, PlanError> {
    let mut limits = CgroupLimits::default();
    if let Some(given) = resources.memory() {
        memory(given, &mut limits, warnings)?;
    }
    if let Some(given) = resources.cpu() {
        cpu(given, &mut limits, warnings)?;
    }
    limits.pids_max = match resources.pids().map_or(0, |pids| pids.limit()) {
        0 => None,
        limit => Some(u64::try_from(limit).unwrap_or(MAX)),
    };
    if let Some(given) = resources.block_io() {
        block_io(given, &mut limits, warnings);
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        warnings.push("linux.resources.rdma: the machine has no RDMA devices; left out".into());
    }
    if resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some_and(|id| id != 0) || network.priorities().iter().flatten().next().is_some()
    }) {
        warnings.push("linux.resources.network: cgroup v2 has no network classes; left out".into());
    }
    files(resources, &mut limits)?;
    Ok(limits)
}

fn memory(
    given: &LinuxMemory,
    limits: &mut CgroupLimits,
    warnings: &mut Vec<String>,
) -> Result<(), PlanError> {
    limits.memory_max = bound("limit", given.limit())?;
    limits.memory_low = bound("reservation", given.reservation())?;
    limits.swap_max = swap(given)?;
    if given.disable_oom_killer() == Some(true) {
        warnings.push("linux.resources.memory.disableOOMKiller: cgroup v2 cannot do it; left out".into());
    }
    Ok(())
}

/// -1 is no limit; 0 and nothing mean not given.
fn bound(field: &str, value: Option<i64>) -> Result<Option<u64>, PlanError> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(MAX)),
        Some(bytes) => u64::try_from(bytes).map(Some).map_err(|_| {
            PlanError::invalid(format!("linux.resources.memory.{field}"), "must be bytes, or -1 for no limit")
        }),
    }
}

/// `swap` is memory and swap together; v2 has swap alone. The cases are runc's.
fn swap(given: &LinuxMemory) -> Result<Option<u64>, PlanError> {
    let invalid = |problem: &str| Err(PlanError::invalid("linux.resources.memory.swap", problem));
    match (given.limit().unwrap_or(0), given.swap().unwrap_or(0)) {
        (-1, 0) | (_, -1) => Ok(Some(MAX)),
        (_, 0) => Ok(None),
        (0 | -1, _) => invalid("cannot be limited without a memory limit; give linux.resources.memory.limit"),
        (memory, swap) if swap < memory => {
            invalid("is memory and swap together; it must be at least the memory limit")
        }
        (memory, swap) => Ok(Some(swap.abs_diff(memory))),
    }
}

fn cpu(given: &LinuxCpu, limits: &mut CgroupLimits, warnings: &mut Vec<String>) -> Result<(), PlanError> {
    limits.cpu_max = cpu_max(given);
    if let Some((_, period)) = limits.cpu_max.filter(|(_, period)| !(1_000..=1_000_000).contains(period)) {
        let problem = format!("{period} must be 1000 to 1000000 microseconds");
        return Err(PlanError::invalid("linux.resources.cpu.period", problem));
    }
    limits.cpu_burst = given.burst();
    limits.cpu_weight = given.shares().filter(|shares| *shares > 0).map(weight_of_shares);
    limits.cpu_idle = given.idle();
    if limits.cpu_idle.is_some_and(|idle| !(0..=1).contains(&idle)) {
        return Err(PlanError::invalid("linux.resources.cpu.idle", "must be 0 or 1"));
    }
    for (field, set) in [("cpus", given.cpus()), ("mems", given.mems())] {
        let Some(set) = set.as_deref().filter(|set| !set.is_empty()) else { continue };
        if parse_cpu_list(set).is_none() {
            let problem = format!("{set:?} must be a list such as 0-3,7");
            return Err(PlanError::invalid(format!("linux.resources.cpu.{field}"), problem));
        }
    }
    if given.realtime_runtime().is_some_and(|n| n != 0) || given.realtime_period().is_some_and(|n| n != 0) {
        warnings
            .push("linux.resources.cpu.realtimeRuntime: cgroup v2 has no real-time groups; left out".into());
    }
    Ok(())
}

/// `cpu.max`: quota ([`MAX`] for none) and period in microseconds.
pub(super) fn cpu_max(given: &LinuxCpu) -> Option<(u64, u64)> {
    let (quota, period) = (given.quota().unwrap_or(0), given.period().unwrap_or(0));
    if quota == 0 && period == 0 {
        return None;
    }
    let quota = u64::try_from(quota).ok().filter(|quota| *quota > 0).unwrap_or(MAX);
    Some((quota, if period == 0 { DEFAULT_PERIOD_US } else { period }))
}

/// Shares of v1 (2..=262144) onto the weights of v2 (1..=10000), linear, as runc and the kernel's documentation do.
fn weight_of_shares(shares: u64) -> u64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9_999) / 262_142
}

fn block_io(given: &LinuxBlockIo, limits: &mut CgroupLimits, warnings: &mut Vec<String>) {
    // 10..=1000 onto 1..=10000.
    limits.io_weight = given
        .weight()
        .filter(|weight| *weight > 0)
        .map(|weight| 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990);
    let throttled = [
        given.throttle_read_bps_device(),
        given.throttle_write_bps_device(),
        given.throttle_read_iops_device(),
        given.throttle_write_iops_device(),
    ];
    let weights = given.weight_device().iter().flatten().next().is_some();
    if weights || throttled.into_iter().any(|list| list.iter().flatten().next().is_some()) {
        warnings.push(
            "linux.resources.blockIO: devices of the host are not in the machine; their limits are left out"
                .into(),
        );
    }
}

fn files(resources: &LinuxResources, limits: &mut CgroupLimits) -> Result<(), PlanError> {
    for (index, huge) in resources.hugepage_limits().iter().flatten().enumerate() {
        let path = format!("linux.resources.hugepageLimits[{index}]");
        let size = huge.page_size();
        let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
        if digits.is_empty() || size.len() != digits.len() + 2 || !digits.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(PlanError::invalid(format!("{path}.pageSize"), "must be a size such as 2MB"));
        }
        let limit = u64::try_from(huge.limit()).map_or("max".into(), |limit| limit.to_string());
        limits.files.push((format!("hugetlb.{size}.max"), limit));
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (name, value) in unified {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let file = name.chars().all(plain)
            && name.split('.').count() >= 2
            && name.split('.').all(|part| !part.is_empty());
        if !file || value.contains('\0') {
            let problem = "must be the name of a cgroup file, such as memory.high";
            return Err(PlanError::invalid(format!("linux.resources.unified.{name}"), problem));
        }
        limits.files.push((name.clone(), value.clone()));
    }
    Ok(())
}

/// How many numbers a list such as `0-3,7` names; `None` when it is no such list.
pub(super) fn parse_cpu_list(list: &str) -> Option<u64> {
    let mut count = 0u64;
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count += u64::from(last.checked_sub(first)?) + 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limits(resources: serde_json::Value) -> Result<CgroupLimits, String> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        guest_limits(&resources, &mut Vec::new()).map_err(|e| e.to_string())
    }

    #[test]
    fn swap_is_what_is_left_above_memory() {
        let swap = |limit: i64, swap: i64| {
            limits(json!({"memory": {"limit": limit, "swap": swap}})).map(|l| l.swap_max)
        };
        assert_eq!(swap(100, 150), Ok(Some(50)));
        assert_eq!(swap(100, 100), Ok(Some(0)));
        assert_eq!(swap(100, 0), Ok(None));
        assert_eq!(swap(100, -1), Ok(Some(MAX)));
        assert_eq!(swap(-1, 0), Ok(Some(MAX)));
        assert!(swap(100, 99).unwrap_err().contains("at least the memory limit"));
        assert!(swap(0, 99).unwrap_err().contains("without a memory limit"));
        assert!(swap(-1, 99).unwrap_err().contains("without a memory limit"));
        assert!(swap(-7, 0).unwrap_err().contains("linux.resources.memory.limit"));
    }

    #[test]
    fn weights_keep_their_ends() {
        let weight = |shares: u64| limits(json!({"cpu": {"shares": shares}})).unwrap().cpu_weight;
        assert_eq!([2, 1024, 262_144].map(weight), [Some(1), Some(39), Some(10_000)]);
        assert_eq!([0, 1, u64::MAX].map(weight), [None, Some(1), Some(10_000)]);
        let io = |weight: u16| limits(json!({"blockIO": {"weight": weight}})).unwrap().io_weight;
        assert_eq!([10, 1000].map(io), [Some(1), Some(10_000)]);
    }

    #[test]
    fn quota_and_period_stand_for_each_other() {
        let max = |cpu: serde_json::Value| limits(json!({ "cpu": cpu })).map(|l| l.cpu_max);
        assert_eq!(max(json!({"quota": 50_000})), Ok(Some((50_000, 100_000))));
        assert_eq!(max(json!({"quota": -1, "period": 5_000})), Ok(Some((MAX, 5_000))));
        assert_eq!(max(json!({})), Ok(None));
        assert!(max(json!({"quota": 1, "period": 5})).is_err());
    }

    #[test]
    fn names_of_files_cannot_leave_the_cgroup() {
        let file = |name: &str| limits(json!({"unified": {name: "1"}}));
        assert_eq!(file("memory.high").unwrap().files, [("memory.high".to_string(), "1".to_string())]);
        for bad in ["../x.y", "a/b.c", "tasks", "", "..", "memory..high"] {
            assert!(file(bad).is_err(), "{bad}");
        }
        let huge = |size: &str| limits(json!({"hugepageLimits": [{"pageSize": size, "limit": 5}]}));
        assert_eq!(huge("2MB").unwrap().files[0].0, "hugetlb.2MB.max");
        for bad in ["", "MB", "2", "2MBMB", "/MB", "2TB"] {
            assert!(huge(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(parse_cpu_list("0-3,7"), Some(5));
        assert_eq!(parse_cpu_list("2"), Some(1));
        assert_eq!(parse_cpu_list("3-1"), None);
        assert_eq!(parse_cpu_list("0-99999999999"), None);
        assert_eq!(parse_cpu_list("a"), None);
    }
}
