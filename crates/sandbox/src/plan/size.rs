//! How large the machine is: vCPUs and memory, from the container's limits.
//!
//! ```text
//!   vCPUs   asked for ─ else quota / period rounded up ─ else CPUs of the cpuset ─ else the default;   at most the maximum
//!   memory  asked for ─ else limit + overhead ─ else the default;                             at most what the host has
//! ```

use super::limits::parse_cpu_list;
use super::{Inputs, PlanError};
use machine_spec::{MAX_VCPUS, MIN_MEMORY_MIB};
use oci_spec::runtime::{LinuxCpu, LinuxResources};

/// Default period of the kernel's CPU bandwidth control, in microseconds.
pub(super) const DEFAULT_PERIOD_US: u64 = 100_000;

/// Size of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub vcpus: u32,
    pub memory_mib: u64,
    pub warnings: Vec<String>,
}

pub(super) fn size(inputs: &Inputs) -> Result<Size, PlanError> {
    let mut size = Size::default();
    size.vcpus = vcpus(inputs, &mut size.warnings)?;
    size.memory_mib = memory(inputs, &mut size.warnings)?;
    Ok(size)
}

fn vcpus(inputs: &Inputs, warnings: &mut Vec<String>) -> Result<u32, PlanError> {
    let machine = &inputs.configuration.machine;
    let most = match machine.max_vcpus {
        0 => inputs.facts.cpus,
        most => most,
    }
    .clamp(1, MAX_VCPUS);
    if let Some(asked) = inputs.configuration.container.vcpus {
        if asked == 0 || asked > most {
            let fix = "ask for fewer, or raise machine.max_vcpus in the configuration";
            return Err(PlanError::host(
                format!("a machine with {asked} vCPUs"),
                format!("1 to {most} can be had"),
                fix,
            ));
        }
        return Ok(asked);
    }
    let cpu = inputs.resources().and_then(|r| r.cpu().as_ref());
    let wanted = match (cpu.and_then(cpus_of_quota), cpu.and_then(cpus_of_set)) {
        (Some(quota), Some(set)) => quota.min(set),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => u64::from(machine.default_vcpus),
    };
    if wanted > u64::from(most) {
        warnings.push(format!("the machine gets {most} vCPUs, all there are, not {wanted}"));
    }
    Ok(wanted.clamp(1, u64::from(most)) as u32)
}

fn cpus_of_quota(cpu: &LinuxCpu) -> Option<u64> {
    let quota = u64::try_from(cpu.quota()?).ok().filter(|quota| *quota > 0)?;
    let period = cpu.period().filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD_US);
    Some(quota.div_ceil(period))
}

fn cpus_of_set(cpu: &LinuxCpu) -> Option<u64> {
    parse_cpu_list(cpu.cpus().as_deref()?).filter(|count| *count > 0)
}

fn memory(inputs: &Inputs, warnings: &mut Vec<String>) -> Result<u64, PlanError> {
    let (machine, facts) = (&inputs.configuration.machine, inputs.facts);
    if facts.memory_available_mib < MIN_MEMORY_MIB {
        let what = format!("starting a machine, which needs at least {MIN_MEMORY_MIB} MiB of memory");
        let why = format!("the host has {} MiB available", facts.memory_available_mib);
        return Err(PlanError::host(what, why, "free some, or stop other containers"));
    }
    if let Some(asked) = inputs.configuration.container.memory_mib {
        if !(MIN_MEMORY_MIB..=facts.memory_total_mib).contains(&asked) {
            let why = format!("{MIN_MEMORY_MIB} to {} MiB can be had on this host", facts.memory_total_mib);
            return Err(PlanError::host(
                format!("a machine with {asked} MiB of memory"),
                why,
                "ask for another size",
            ));
        }
        return Ok(asked);
    }
    let wanted = match inputs.resources().and_then(memory_limit) {
        Some(limit) => limit.div_ceil(1 << 20).saturating_add(machine.memory_overhead_mib),
        None => machine.default_memory_mib,
    };
    // A limit promises no memory, so one above the host's is no mistake: engines' users set it as "more than enough".
    if wanted > facts.memory_total_mib {
        warnings.push(format!(
            "the machine gets the host's {} MiB of memory, not {wanted}",
            facts.memory_total_mib
        ));
    }
    Ok(wanted.min(facts.memory_total_mib).max(MIN_MEMORY_MIB))
}

/// The container's memory limit in bytes, if it has one.
pub(super) fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref()?.limit()?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}
