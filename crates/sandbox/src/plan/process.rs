//! A process of the container: its first one, or one that `exec` adds.

use super::capabilities::sets;
use super::scheduling::{io_priority, scheduler};
use super::{INIT_STDERR_PORT, INIT_STDIN_PORT, INIT_STDOUT_PORT, Inputs, Piece, PlanError, seccomp};
use guest_protocol::message::{Capabilities, Io, Process, Rlimit, Seccomp, Step, TerminalSize};
use oci_spec::runtime as oci;

/// What all processes of a container have in common, from its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// System call filter.
    pub seccomp: Option<Seccomp>,
    /// Personality of personality(2).
    pub personality: Option<u32>,
}

pub(super) fn process(inputs: &Inputs, common: Common) -> Result<Piece, PlanError> {
    let Some(given) = inputs.bundle.spec.process() else {
        // The specification wants it by `start` only, but the guest's set-up ends with it, as runc's does.
        return Err(PlanError::invalid("process", "missing; `create` already needs it"));
    };
    let io =
        Io { stdin: Some(INIT_STDIN_PORT), stdout: Some(INIT_STDOUT_PORT), stderr: Some(INIT_STDERR_PORT) };
    let (process, warnings) = guest_process(given, common, io)?;
    Ok(Piece { guest: vec![Step::Process(Box::new(process))], warnings, ..Piece::default() })
}

/// Plans a process for `exec` into a container whose plan has been made: it gets the container's filter and personality.
/// `io` are ports that the caller gave it; with a terminal `io.stderr` is dropped.
///
/// # Errors
/// When the process is malformed. JSON paths in messages start with `process`.
pub fn process_for_exec(
    given: &oci::Process,
    container: &super::SandboxPlan,
    io: Io,
) -> Result<(Process, Vec<String>), PlanError> {
    let init = container.guest.steps.iter().find_map(|step| match step {
        Step::Process(process) => Some(process),
        _ => None,
    });
    let common =
        init.map(|p| Common { seccomp: p.seccomp.clone(), personality: p.personality }).unwrap_or_default();
    let (mut process, warnings) = guest_process(given, common, io)?;
    if given.capabilities().is_none() {
        process.capabilities = init.and_then(|p| p.capabilities);
    }
    Ok((process, warnings))
}

/// Filter and personality of the container.
pub(super) fn common(inputs: &Inputs) -> Result<(Common, Vec<String>), PlanError> {
    let (seccomp, warnings) = seccomp::seccomp(inputs)?;
    let linux = inputs.bundle.spec.linux().as_ref();
    let personality = match linux.and_then(|linux| linux.personality().as_ref()) {
        None => None,
        Some(p) if p.flags().iter().flatten().next().is_some() => {
            return Err(PlanError::invalid("linux.personality.flags", "no flags are defined; remove them"));
        }
        // PER_LINUX and PER_LINUX32 of `include/uapi/linux/personality.h`.
        Some(p) => Some(if p.domain() == oci::LinuxPersonalityDomain::PerLinux32 { 8 } else { 0 }),
    };
    Ok((Common { seccomp, personality }, warnings))
}

fn guest_process(given: &oci::Process, common: Common, io: Io) -> Result<(Process, Vec<String>), PlanError> {
    let terminal = given.terminal().unwrap_or(false).then(|| terminal_size(given)).transpose()?;
    let user = given.user();
    if user.umask().is_some_and(|mask| mask > 0o777) {
        return Err(PlanError::invalid("process.user.umask", "must be at most 0777 (octal), 511 in JSON"));
    }
    let process = Process {
        args: args(given)?,
        env: environment(given)?,
        cwd: cwd(given)?,
        terminal,
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: once(user.additional_gids().as_deref().unwrap_or_default()),
        umask: user.umask(),
        // As with runc, who names no capabilities gets none.
        capabilities: Some(given.capabilities().as_ref().map_or(Capabilities::default(), sets)),
        rlimits: rlimits(given)?,
        no_new_privileges: given.no_new_privileges().unwrap_or(false),
        oom_score_adj: oom_score(given)?,
        seccomp: common.seccomp,
        io_priority: given.io_priority().as_ref().map(io_priority).transpose()?,
        scheduler: given.scheduler().as_ref().map(scheduler).transpose()?,
        personality: common.personality,
        // A terminal carries both outputs.
        io: Io { stderr: io.stderr.filter(|_| terminal.is_none()), ..io },
    };
    Ok((process, warnings(given)))
}

/// Docker names a group twice that the user is in already.
fn once(groups: &[u32]) -> Vec<u32> {
    let new = |(index, group): &(usize, &u32)| !groups[..*index].contains(group);
    groups.iter().enumerate().filter(new).map(|(_, group)| *group).collect()
}

fn warnings(given: &oci::Process) -> Vec<String> {
    let mut warnings = Vec::new();
    let labels = [
        ("apparmorProfile", given.apparmor_profile(), "AppArmor"),
        ("selinuxLabel", given.selinux_label(), "SELinux"),
    ];
    for (field, label, system) in labels {
        if label.as_deref().is_some_and(|label| !label.is_empty() && label != "unconfined") {
            warnings.push(format!(
                "process.{field}: the machine has no {system} policy; the machine itself confines the container"
            ));
        }
    }
    if given.exec_cpu_affinity().is_some() {
        warnings
            .push("process.execCPUAffinity: the host's CPUs have no names in the machine; left out".into());
    }
    warnings
}

fn args(given: &oci::Process) -> Result<Vec<String>, PlanError> {
    let args = given.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(PlanError::invalid("process.args", "must not be empty"));
    }
    match args.iter().position(|arg| arg.contains('\0')) {
        Some(index) => Err(PlanError::invalid(format!("process.args[{index}]"), "contains a NUL byte")),
        None => Ok(args),
    }
}

fn environment(given: &oci::Process) -> Result<Vec<String>, PlanError> {
    let all = given.env().clone().unwrap_or_default();
    let good = |entry: &String| !entry.contains('\0') && entry.find('=').is_some_and(|at| at > 0);
    match all.iter().position(|entry| !good(entry)) {
        Some(index) => {
            Err(PlanError::invalid(format!("process.env[{index}]"), "must have the form NAME=VALUE"))
        }
        None => Ok(all),
    }
}

fn cwd(given: &oci::Process) -> Result<String, PlanError> {
    match given.cwd().to_str() {
        Some(cwd) if cwd.starts_with('/') && !cwd.contains('\0') => Ok(cwd.to_string()),
        _ => Err(PlanError::invalid("process.cwd", "must be an absolute path")),
    }
}

fn terminal_size(given: &oci::Process) -> Result<TerminalSize, PlanError> {
    let size = given.console_size().unwrap_or_default();
    let side = |value: u64, name: &str| {
        u16::try_from(value)
            .map_err(|_| PlanError::invalid(format!("process.consoleSize.{name}"), "must be at most 65535"))
    };
    Ok(TerminalSize { rows: side(size.height(), "height")?, columns: side(size.width(), "width")? })
}

fn oom_score(given: &oci::Process) -> Result<Option<i32>, PlanError> {
    match given.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(PlanError::invalid("process.oomScoreAdj", "must be -1000 to 1000"))
        }
        score => Ok(score),
    }
}

/// Each resource once, none with more than its hard limit: what the kernel would refuse only when the process starts.
fn rlimits(given: &oci::Process) -> Result<Vec<Rlimit>, PlanError> {
    let all: Vec<_> = given.rlimits().iter().flatten().map(rlimit).collect();
    for (index, limit) in all.iter().enumerate() {
        let bad = |problem| Err(PlanError::invalid(format!("process.rlimits[{index}]"), problem));
        if limit.soft > limit.hard {
            return bad("the soft limit is higher than the hard one");
        }
        if all[..index].iter().any(|earlier| earlier.resource == limit.resource) {
            return bad("the resource has a limit already");
        }
    }
    Ok(all)
}

fn rlimit(given: &oci::PosixRlimit) -> Rlimit {
    use oci::PosixRlimitType as T;
    let resource = match given.typ() {
        T::RlimitCpu => libc::RLIMIT_CPU,
        T::RlimitFsize => libc::RLIMIT_FSIZE,
        T::RlimitData => libc::RLIMIT_DATA,
        T::RlimitStack => libc::RLIMIT_STACK,
        T::RlimitCore => libc::RLIMIT_CORE,
        T::RlimitRss => libc::RLIMIT_RSS,
        T::RlimitNproc => libc::RLIMIT_NPROC,
        T::RlimitNofile => libc::RLIMIT_NOFILE,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        T::RlimitAs => libc::RLIMIT_AS,
        T::RlimitLocks => libc::RLIMIT_LOCKS,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        T::RlimitNice => libc::RLIMIT_NICE,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO,
        T::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    Rlimit { resource, soft: given.soft(), hard: given.hard() }
}
