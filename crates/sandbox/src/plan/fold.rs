//! All features folded into one plan, in the order in which a container comes to be.

use super::{HostStep, Inputs, Piece, PlanError, SandboxPlan};
use super::{
    devices, hooks, host_disks, machine, mounts, namespaces, network, process, resources, rootfs, security,
    size, unsupported,
};
use guest_protocol::message::{Setup, Step};
use std::collections::BTreeMap;

/// Longest container id: it is a file name, and part of longer ones.
const MAX_ID: usize = 200;

/// Plans one container. No I/O; the same inputs give the same plan.
///
/// # Errors
/// One line that says what cannot be, why, and what to do.
pub fn plan(inputs: &Inputs) -> Result<SandboxPlan, PlanError> {
    check_id(inputs.id)?;
    unsupported::refuse(inputs)?;
    let mut whole = Piece { warnings: inputs.bundle.extra.warnings.clone(), ..Piece::default() };
    let accelerator = machine::accelerator(inputs, &mut whole.warnings)?;
    let size = size::size(inputs)?;
    whole.warnings.extend(size.warnings.iter().cloned());
    let (common, warnings) = process::common(inputs)?;
    whole.warnings.extend(warnings);
    let pieces = [
        rootfs::rootfs(inputs)?,
        resources::resources(inputs, &size, accelerator)?,
        namespaces::namespaces(inputs)?,
        network::network(inputs, &size)?,
        security::sysctls(inputs)?,
        mounts::mounts(inputs)?,
        devices::devices(inputs)?,
        host_disks::host_disks(inputs)?,
        hooks::guest_hooks(inputs)?,
        security::names(inputs)?,
        security::paths(inputs)?,
        rootfs::readonly_root(inputs),
        process::process(inputs, common)?,
    ];
    for piece in pieces {
        whole.host.extend(piece.host);
        whole.devices.extend(piece.devices);
        whole.guest.extend(piece.guest);
        whole.warnings.extend(piece.warnings);
    }
    whole.host.sort_by_key(host_order);
    whole.guest.sort_by_key(guest_order);
    let machine = machine::machine(inputs, &size, accelerator, &whole)?;
    Ok(SandboxPlan {
        id: inputs.id.to_string(),
        bundle: inputs.bundle.dir.clone(),
        rootfs: inputs.bundle.rootfs.clone(),
        annotations: inputs.bundle.spec.annotations().iter().flatten().map(pair).collect::<BTreeMap<_, _>>(),
        host: whole.host,
        vmm_program: machine::program(inputs)?,
        machine,
        guest: Setup {
            wall_clock_ns: 0,
            entropy: Vec::new(),
            container: inputs.id.to_string(),
            steps: whole.guest,
        },
        hooks: hooks::host_hooks(inputs)?,
        terminal: inputs.bundle.spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false),
        boot_timeout_s: machine::boot_timeout_s(inputs, accelerator),
        warnings: whole.warnings,
    })
}

fn pair((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn check_id(id: &str) -> Result<(), PlanError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+.-".contains(c);
    if id.is_empty() || id.len() > MAX_ID || id == "." || id == ".." || !id.chars().all(plain) {
        let shown: String = id.chars().take(40).collect();
        let why = format!("an id has 1 to {MAX_ID} letters, digits or _ + - . and is not . or ..");
        return Err(PlanError::host(format!("container id {shown:?}"), why, "choose another"));
    }
    Ok(())
}

/// The control group first, so that everything is accounted there; then the network; then the files.
fn host_order(step: &HostStep) -> u8 {
    match step {
        HostStep::Cgroup { .. } => 0,
        HostStep::NetworkNamespace { .. } => 1,
        HostStep::UserNetwork { .. } => 2,
        HostStep::Taps { .. } => 3,
        HostStep::Stage { .. } => 4,
    }
}

/// Phases of the guest's set-up; within each the order of the features, and of the configuration, is kept.
fn guest_order(step: &Step) -> u8 {
    match step {
        Step::Share(_) | Step::Disk(_) | Step::HostDisk(_) => 0,
        Step::MachineSysctl { .. } => 1,
        Step::Cgroup(_) => 2,
        Step::Namespaces(_) => 3,
        Step::Rootfs(_) => 4,
        Step::Mount(_) => 5,
        Step::Device(_) => 6,
        Step::Symlink { .. } => 7,
        Step::CreateHook(_) => 8,
        Step::Hostname(_) | Step::Domainname(_) => 9,
        Step::Sysctl { .. } => 10,
        Step::ReadonlyPath(_) => 11,
        Step::MaskedPath(_) => 12,
        Step::ReadonlyRoot => 13,
        Step::StartHook(_) => 14,
        Step::Process(_) => 15,
    }
}
