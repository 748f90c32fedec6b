//! Namespaces: a machine is one by itself, so most questions are answered before they are asked.
//!
//! Mount, pid, ipc, uts and cgroup are always the container's own. The network namespace is the one on the host whose
//! interfaces the machine gets. User and time namespaces are made in the guest when asked for. Who asks for the host's gets the
//! machine's where that serves: its IPC objects, its name (a copy of the host's, `security.rs`); the host's processes and network are refused.

use super::id_maps::container_maps;
use super::{HostStep, Inputs, Piece, PlanError, pods};
use guest_protocol::message::{Namespaces, Step};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type};

pub(super) fn namespaces(inputs: &Inputs) -> Result<Piece, PlanError> {
    let mut piece = Piece::default();
    let linux = inputs.bundle.spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let find = |typ| list.iter().find(|ns| ns.typ() == typ);
    for (index, namespace) in list.iter().enumerate() {
        if list[..index].iter().any(|before| before.typ() == namespace.typ()) {
            let problem = format!("a second namespace of type {}", name(namespace.typ()));
            return Err(PlanError::invalid(format!("linux.namespaces[{index}]"), problem));
        }
        check_path(inputs, index, namespace)?;
    }
    piece.host.push(network(find(Type::Network))?);
    if find(Type::Pid).is_none() {
        let why = "no PID namespace is given, which means the host's own; a virtual machine cannot show the host's processes";
        let fix = "leave out --pid=host with Docker and Podman, or add {\"type\": \"pid\"}";
        return Err(PlanError::refused("linux.namespaces", why, fix));
    }
    let missing: Vec<_> =
        [Type::Ipc, Type::Uts].into_iter().filter(|t| find(*t).is_none()).map(name).collect();
    if !missing.is_empty() {
        piece.warnings.push(format!(
            "linux.namespaces: the host's {} was asked for; the container has the virtual machine's instead",
            missing.join(", ")
        ));
    }
    let time_offsets = time_offsets(inputs, find(Type::Time).is_some())?;
    piece.guest.push(Step::Namespaces(Namespaces { user: container_maps(inputs)?, time_offsets }));
    Ok(piece)
}

/// Whether the container has a network namespace, and nobody else has it yet.
pub(super) fn has_new_network(inputs: &Inputs) -> bool {
    let linux = inputs.bundle.spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let found = list.iter().find(|namespace| namespace.typ() == Type::Network);
    found.is_some_and(|namespace| {
        matches!(network(Some(namespace)), Ok(HostStep::NetworkNamespace { path: None }))
    })
}

fn network(namespace: Option<&LinuxNamespace>) -> Result<HostStep, PlanError> {
    let Some(namespace) = namespace else {
        let why = "no network namespace is given, which means the host's own network; a virtual machine cannot use it";
        let fix = "use --network none or bridge with Docker and Podman, or add {\"type\": \"network\"}";
        return Err(PlanError::refused("linux.namespaces", why, fix));
    };
    let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
    if path.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(PlanError::invalid("linux.namespaces", "the network namespace's path must be absolute"));
    }
    Ok(HostStep::NetworkNamespace { path })
}

/// A network namespace may be anybody's but another container's; the others are of kernels that the guest does not see.
fn check_path(inputs: &Inputs, index: usize, namespace: &LinuxNamespace) -> Result<(), PlanError> {
    let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(());
    };
    let name = name(namespace.typ());
    if let Some(owner) = pods::owner(inputs, path) {
        return pods::join(
            inputs,
            owner,
            &format!("linux.namespaces[{index}].path: the {name} namespace {path:?}"),
        );
    }
    if namespace.typ() == Type::Network {
        return Ok(());
    }
    Err(PlanError::refused(
        format!("linux.namespaces[{index}].path"),
        format!(
            "the {name} namespace {path:?} belongs to another container, whose machine cannot be joined yet"
        ),
        "run the containers without shared namespaces (with Podman: not in one pod)",
    ))
}

fn time_offsets(inputs: &Inputs, has_namespace: bool) -> Result<Vec<(i32, i64, u32)>, PlanError> {
    let linux = inputs.bundle.spec.linux().as_ref();
    let Some(offsets) = linux.and_then(|linux| linux.time_offsets().as_ref()) else { return Ok(Vec::new()) };
    if !has_namespace && !offsets.is_empty() {
        let problem = "offsets need a time namespace; add {\"type\": \"time\"} to linux.namespaces";
        return Err(PlanError::invalid("linux.timeOffsets", problem));
    }
    let mut result = Vec::new();
    for (clock, offset) in offsets {
        let id = match clock.as_str() {
            "monotonic" => libc::CLOCK_MONOTONIC,
            "boottime" => libc::CLOCK_BOOTTIME,
            _ => {
                let problem = format!("{clock:?} must be monotonic or boottime");
                return Err(PlanError::invalid("linux.timeOffsets", problem));
            }
        };
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            return Err(PlanError::invalid(
                format!("linux.timeOffsets.{clock}.nanosecs"),
                "must be below 10^9",
            ));
        }
        result.push((id, offset.secs().unwrap_or(0), nanoseconds));
    }
    result.sort_unstable();
    Ok(result)
}

fn name(typ: Type) -> &'static str {
    match typ {
        Type::Mount => "mount",
        Type::Cgroup => "cgroup",
        Type::Uts => "uts",
        Type::Ipc => "ipc",
        Type::User => "user",
        Type::Pid => "pid",
        Type::Network => "network",
        Type::Time => "time",
    }
}
