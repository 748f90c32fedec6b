//! Limits: the container's in the guest, and around the whole machine on the host.
//!
//! ```text
//!   OCI resources ──► guest: cgroup v2 of the container, exactly as asked; its programs read their limits there
//!                └──► host: control group of keeper and VMM: CPU as asked, memory = machine + VMM; engines read usage there
//! ```
//!
//! CPU sets and memory nodes are the host's: its CPUs have no names in the guest, so they are set on the host only.

use super::cgroup_path::cgroup_path;
use super::devices::rules;
use super::limits::guest_limits;
use super::size::{Size, memory_limit};
use super::{HostLimits, HostStep, Inputs, Piece, PlanError};
use guest_protocol::message::Step;
use host_check::facts::Cgroups;
use machine_spec::Accelerator;

/// How much more the VMM needs under emulation, which keeps translated code.
const EMULATION_FACTOR: u64 = 4;

pub(super) fn resources(inputs: &Inputs, size: &Size, accelerator: Accelerator) -> Result<Piece, PlanError> {
    let mut piece = Piece::default();
    let mut limits = match inputs.resources() {
        Some(resources) => guest_limits(resources, &mut piece.warnings)?,
        None => Default::default(),
    };
    limits.devices = rules(inputs)?;
    piece.guest.push(Step::Cgroup(Box::new(limits)));
    let path = cgroup_path(inputs)?;
    match &inputs.facts.cgroups {
        Cgroups::None(why) => piece
            .warnings
            .push(format!("no control group on the host: {why}; limits hold in the machine only")),
        Cgroups::V1(_) | Cgroups::V2(_) => {
            piece.host.push(HostStep::Cgroup { path, limits: host_limits(inputs, size, accelerator) });
        }
    }
    Ok(piece)
}

fn host_limits(inputs: &Inputs, size: &Size, accelerator: Accelerator) -> HostLimits {
    let Some(resources) = inputs.resources() else { return HostLimits::default() };
    let factor = if accelerator == Accelerator::Emulation { EMULATION_FACTOR } else { 1 };
    let around =
        size.memory_mib.saturating_add(inputs.configuration.machine.vmm_overhead_mib.saturating_mul(factor));
    let cpu = resources.cpu().as_ref();
    let text = |value: Option<&String>| value.filter(|text| !text.is_empty()).cloned();
    HostLimits {
        memory_max: memory_limit(resources).map(|_| around.saturating_mul(1 << 20)),
        cpu_max: cpu.and_then(super::limits::cpu_max).filter(|(quota, _)| *quota != u64::MAX),
        cpu_shares: cpu
            .and_then(|cpu| cpu.shares())
            .filter(|shares| *shares > 0)
            .map(|shares| shares.clamp(2, 262_144)),
        cpuset_cpus: text(cpu.and_then(|cpu| cpu.cpus().as_ref())),
        cpuset_mems: text(cpu.and_then(|cpu| cpu.mems().as_ref())),
    }
}
