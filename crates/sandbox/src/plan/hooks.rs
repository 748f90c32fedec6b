//! Hooks: on the host where the engine's own programs must run, in the guest where the container's must.
//!
//! ```text
//!   prestart, createRuntime, poststart, poststop ──► host     createContainer, startContainer ──► guest
//! ```
//!
//! createContainer hooks are defined by the runtime's mount namespace and the container's others at once, which a machine
//! cannot give: they run in the guest, before the root is changed, from programs of the container.

use super::{HostHook, HostHooks, Inputs, Piece, PlanError};
use guest_protocol::message::{Hook, Step};
use oci_spec::runtime as oci;

/// Steps for the hooks that run in the guest. Their state is filled in by who sends the plan.
pub(super) fn guest_hooks(inputs: &Inputs) -> Result<Piece, PlanError> {
    let Some(hooks) = inputs.bundle.spec.hooks() else { return Ok(Piece::default()) };
    let mut guest = Vec::new();
    for hook in list("createContainer", hooks.create_container())? {
        guest.push(Step::CreateHook(in_guest(hook)));
    }
    for hook in list("startContainer", hooks.start_container())? {
        guest.push(Step::StartHook(in_guest(hook)));
    }
    Ok(Piece { guest, ..Piece::default() })
}

/// The hooks that run on the host.
pub(super) fn host_hooks(inputs: &Inputs) -> Result<HostHooks, PlanError> {
    let Some(hooks) = inputs.bundle.spec.hooks() else { return Ok(HostHooks::default()) };
    let prestart = hooks.prestart(); // deprecated, and still how Docker plugs its network in
    Ok(HostHooks {
        prestart: list("prestart", prestart)?,
        create_runtime: list("createRuntime", hooks.create_runtime())?,
        poststart: list("poststart", hooks.poststart())?,
        poststop: list("poststop", hooks.poststop())?,
    })
}

fn in_guest(hook: HostHook) -> Hook {
    let path = hook.path.to_string_lossy().into_owned();
    Hook { path, args: hook.args, env: hook.env, timeout_s: hook.timeout_s, state: String::new() }
}

fn list(phase: &str, hooks: &Option<Vec<oci::Hook>>) -> Result<Vec<HostHook>, PlanError> {
    hooks
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, hook)| one(&format!("hooks.{phase}[{index}]"), hook))
        .collect()
}

fn one(path: &str, hook: &oci::Hook) -> Result<HostHook, PlanError> {
    if !hook.path().is_absolute() {
        return Err(PlanError::invalid(format!("{path}.path"), "must be an absolute path"));
    }
    let (args, env) = (hook.args().clone().unwrap_or_default(), hook.env().clone().unwrap_or_default());
    let program = hook.path().to_string_lossy().into_owned();
    if args.iter().chain(&env).chain([&program]).any(|text| text.contains('\0')) {
        return Err(PlanError::invalid(path, "contains a NUL byte"));
    }
    let timeout_s = match hook.timeout() {
        None => None,
        Some(seconds) if seconds > 0 => Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
        Some(_) => return Err(PlanError::invalid(format!("{path}.timeout"), "must be greater than 0")),
    };
    Ok(HostHook { path: hook.path().clone(), args, env, timeout_s })
}
