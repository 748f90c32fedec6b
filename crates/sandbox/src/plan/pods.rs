//! Pods: containers that an engine starts in the namespaces of another one, the pod's sandbox, which only holds these.
//!
//! A machine has one container so far, and namespaces cannot span machines. So of a pod one container can run besides the sandbox: it takes
//! the sandbox's network over, and has the other namespaces for itself, as nobody else is in them.

use super::{Inputs, PlanError};
use oci_spec::runtime::LinuxNamespaceType;
use std::collections::HashMap;
use std::path::Path;

/// Annotations by which CRI (containerd), CRI-O and Podman name a container's sandbox.
const SANDBOX: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// Another container on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its id.
    pub id: String,
    /// Pid of its keeper.
    pub pid: u32,
    /// The sandbox of the pod that it is in.
    pub sandbox: Option<String>,
    /// Its host name, if it has one of its own.
    pub hostname: Option<String>,
}

/// The sandbox that annotations name.
pub fn sandbox<'a>(get: impl Fn(&str) -> Option<&'a String>) -> Option<&'a str> {
    SANDBOX.into_iter().find_map(get).map(String::as_str)
}

/// Whether the container is a pod's sandbox.
pub(super) fn is_sandbox(inputs: &Inputs) -> bool {
    let empty = HashMap::new();
    let annotations = inputs.bundle.spec.annotations().as_ref().unwrap_or(&empty);
    sandbox(|name| annotations.get(name)) == Some(inputs.id)
}

/// Whose namespace a file is, if it is one of a container of ours: `/proc/PID/ns/NAME`.
pub(super) fn owner<'a>(inputs: &Inputs<'a>, path: &Path) -> Option<&'a Neighbour> {
    let mut parts = path.strip_prefix("/proc").ok()?.iter();
    let pid: u32 = parts.next()?.to_str()?.parse().ok()?;
    inputs.options.neighbours.iter().find(|neighbour| neighbour.pid == pid)
}

/// Whether the container may have the namespaces of `owner`: as the first of its pod.
///
/// # Errors
/// `field` is refused when the owner is not its sandbox, or another container of the pod is there.
pub(super) fn join(inputs: &Inputs, owner: &Neighbour, field: &str) -> Result<(), PlanError> {
    let empty = HashMap::new();
    let annotations = inputs.bundle.spec.annotations().as_ref().unwrap_or(&empty);
    if sandbox(|name| annotations.get(name)) != Some(&owner.id) {
        let why = format!("it belongs to container {:?}, whose machine cannot be joined yet", owner.id);
        return Err(PlanError::refused(field, why, "run the containers without shared namespaces"));
    }
    let other = |one: &&Neighbour| {
        one.sandbox.as_ref() == Some(&owner.id) && one.id != owner.id && one.id != inputs.id
    };
    if let Some(other) = inputs.options.neighbours.iter().find(other) {
        let why = format!(
            "container {:?} of the same pod runs already, and each has a machine of its own so far",
            other.id
        );
        return Err(PlanError::refused(
            field,
            why,
            "run one container per pod, or containers on a common network",
        ));
    }
    Ok(())
}

/// The host name of the sandbox whose UTS namespace a container joins.
pub(super) fn hostname(inputs: &Inputs) -> Option<String> {
    let linux = inputs.bundle.spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let uts = list.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Uts)?;
    owner(inputs, uts.path().as_ref()?)?.hostname.clone()
}

/// Whether a container joins its pod's sandbox.
pub(super) fn joins(inputs: &Inputs) -> bool {
    let linux = inputs.bundle.spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    list.iter().filter_map(|namespace| namespace.path().as_ref()).any(|path| owner(inputs, path).is_some())
}
