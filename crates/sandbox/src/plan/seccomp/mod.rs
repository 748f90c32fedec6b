//! The container's system call filter: the whole OCI policy, compiled on the host to the program the guest's kernel runs.
//!
//! ```text
//!   linux.seccomp ──► policy: names to numbers, per architecture ──► layout: sorted ranges ──► bpf: instructions
//! ```
//!
//! The meaning is that of runc with libseccomp:
//! - A rule with the default action changes nothing and is left out, so are names that the architecture does not have.
//! - A rule without arguments decides its system call alone; else rules are tried in order, then the default.
//! - A rule that compares one argument twice stands for one rule per comparison.
//! - System calls newer than every one that the policy names fail with ENOSYS, unless the default permits: programs then
//!   fall back to older ones instead of giving up on EPERM.
//! - Other architectures, and x32 numbers where x32 is not listed, kill the process.

mod bpf;
mod layout;
mod multiplexed;
mod policy;
mod tables;
#[cfg(test)]
mod tests;

use super::{Inputs, PlanError};
use guest_protocol::message::Seccomp;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

/// Most instructions of a program (`BPF_MAXINSNS` of `include/uapi/linux/bpf_common.h`).
const MAX_INSTRUCTIONS: usize = 4096;

// SECCOMP_FILTER_FLAG_* of `include/uapi/linux/seccomp.h`.
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;

/// The filter of the container, with warnings.
pub(super) fn seccomp(inputs: &Inputs) -> Result<(Option<Seccomp>, Vec<String>), PlanError> {
    let linux = inputs.bundle.spec.linux().as_ref();
    let Some(given) = linux.and_then(|linux| linux.seccomp().as_ref()) else { return Ok((None, Vec::new())) };
    if !inputs.configuration.security.guest_seccomp {
        let warning =
            "linux.seccomp: not applied, because security.guest_seccomp is false in the configuration";
        return Ok((None, vec![warning.into()]));
    }
    let filter = compile(given, &inputs.mini_os.arch)?;
    Ok((Some(filter), Vec::new()))
}

/// Compiles a policy for programs that run on a kernel of architecture `native`.
fn compile(given: &LinuxSeccomp, native: &str) -> Result<Seccomp, PlanError> {
    refuse_notify(given)?;
    let policies = policy::resolve(given, native)?;
    let program = layout::program(&policies);
    if program.len() > MAX_INSTRUCTIONS {
        let why = format!(
            "the filter has {} instructions, more than the kernel's {MAX_INSTRUCTIONS}",
            program.len()
        );
        return Err(PlanError::refused("linux.seccomp.syscalls", why, "use fewer rules with arguments"));
    }
    Ok(Seccomp { flags: flags(given), program })
}

fn refuse_notify(given: &LinuxSeccomp) -> Result<(), PlanError> {
    let rules = given.syscalls().iter().flatten().map(|rule| rule.action());
    if rules.chain([given.default_action()]).any(|action| action == LinuxSeccompAction::ScmpActNotify) {
        let why = "SCMP_ACT_NOTIFY asks a program on the host about system calls of another kernel";
        return Err(PlanError::refused(
            "linux.seccomp",
            why,
            "use SCMP_ACT_ERRNO or SCMP_ACT_ALLOW for these calls",
        ));
    }
    Ok(())
}

fn flags(given: &LinuxSeccomp) -> u32 {
    use LinuxSeccompFilterFlag as F;
    let Some(names) = given.flags() else {
        return FLAG_SPEC_ALLOW; // runc's default: no mitigation that the policy did not ask for
    };
    names.iter().fold(0, |bits, name| {
        bits | match name {
            F::SeccompFilterFlagLog => FLAG_LOG,
            F::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // The process that loads the filter has one thread; and nobody is notified.
            F::SeccompFilterFlagTsync | F::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

/// What `features` says of filters, in the form of the specification's features.md.
pub fn seccomp_features() -> serde_json::Value {
    serde_json::json!({
        "enabled": true,
        "actions": [
            "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
        ],
        "operators": [
            "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
        ],
        "archs": ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
        "knownFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
        ],
        "supportedFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
        ],
    })
}
