//! New limits for a container whose machine has its size already.

use super::limits::guest_limits;
use super::size::memory_limit;
use super::{HostLimits, PlanError, SandboxPlan};
use guest_protocol::message::CgroupLimits;
use oci_spec::runtime::LinuxResources;

/// Limits in the guest and of the host's control group for `update`.
///
/// # Errors
/// Limits that contradict each other, or ask for more than the machine has.
pub fn update(
    resources: &LinuxResources,
    plan: &SandboxPlan,
    warnings: &mut Vec<String>,
) -> Result<(CgroupLimits, HostLimits), PlanError> {
    let guest = guest_limits(resources, warnings)?;
    let machine = &plan.machine;
    if let Some(limit) = memory_limit(resources) {
        let size = machine.memory_mib << 20;
        if limit > size && limit < u64::MAX >> 1 {
            let why = format!(
                "{} MiB are more than the {} MiB of the container's machine, which keeps the size it was created with",
                limit >> 20,
                machine.memory_mib
            );
            return Err(PlanError::host("memory limit", why, "create the container with a larger limit"));
        }
    }
    if let Some((quota, period)) = guest.cpu_max.filter(|(quota, _)| *quota != u64::MAX)
        && period > 0
        && quota.div_ceil(period) > u64::from(machine.vcpus)
    {
        let why = format!(
            "{} CPUs are more than the {} of the container's machine, which keeps the size it was created with",
            quota.div_ceil(period),
            machine.vcpus
        );
        return Err(PlanError::host("CPU quota", why, "create the container with a larger quota"));
    }
    let cpu = resources.cpu().as_ref();
    let text = |value: Option<&String>| value.filter(|text| !text.is_empty()).cloned();
    let host = HostLimits {
        // The host's group bounds the whole machine, whose size does not change.
        memory_max: None,
        cpu_max: guest.cpu_max,
        cpu_shares: cpu
            .and_then(|cpu| cpu.shares())
            .filter(|shares| *shares > 0)
            .map(|s| s.clamp(2, 262_144)),
        cpuset_cpus: text(cpu.and_then(|cpu| cpu.cpus().as_ref())),
        cpuset_mems: text(cpu.and_then(|cpu| cpu.mems().as_ref())),
    };
    Ok((guest, host))
}
