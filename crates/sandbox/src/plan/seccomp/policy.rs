//! A policy with its names resolved: per set of numbers, what happens to each system call.

use super::super::PlanError;
use super::multiplexed::also;
use super::tables::Abi;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};
use std::collections::{BTreeMap, BTreeSet};

// SECCOMP_RET_* of `include/uapi/linux/seccomp.h`.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
/// What is not data of an action.
const ACTION: u32 = 0xffff_0000;

/// What happens to programs of an architecture that the policy does not list.
pub(super) const FOREIGN: u32 = KILL_PROCESS;
/// What happens to system calls newer than the policy.
pub(super) const UNHEARD_OF: u32 = ERRNO | libc::ENOSYS as u32;

/// Largest errno (`MAX_ERRNO`); the kernel would clamp to it silently.
const MAX_ERRNO: u32 = 4095;

/// The policy for one set of numbers.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub abi: Abi,
    /// What a number without an entry gets, up to `newest`.
    pub default: u32,
    /// Largest number that the policy names, if larger ones are to fail with ENOSYS.
    pub newest: Option<u32>,
    pub calls: BTreeMap<u32, Decision>,
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Always this.
    Always(u32),
    /// The first rule all of whose conditions hold; else the default.
    Rules(Vec<(Vec<Condition>, u32)>),
}

/// One comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Argument, 0..=5.
    pub index: u32,
    pub operator: Operator,
    /// What it is compared with; the mask for `ScmpCmpMaskedEq`.
    pub value: u64,
    /// What the masked argument is compared with.
    pub second: u64,
}

/// Whether the kernel would rather do `a` than `b` if two filters disagreed: it is the stricter one.
pub(super) fn stricter(a: u32, b: u32) -> bool {
    ((a & ACTION) as i32) < ((b & ACTION) as i32)
}

/// Resolves the policy for every architecture it lists and the kernel's own.
pub(super) fn resolve(given: &LinuxSeccomp, native: &str) -> Result<Vec<Policy>, PlanError> {
    let Some(native) = Abi::native(native) else {
        let why = format!("system calls of architecture {native} are not known");
        return Err(PlanError::refused("linux.seccomp", why, "remove the filter"));
    };
    let default = action("linux.seccomp.defaultAction", given.default_action(), given.default_errno_ret())?;
    let listed = given.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch, native));
    let abis: BTreeSet<Abi> = listed.chain([native]).collect();
    let rules = given.syscalls().iter().flatten().enumerate();
    let rules = rules.map(|(index, rule)| Rule::new(index, rule)).collect::<Result<Vec<_>, _>>()?;
    Ok(abis.into_iter().map(|abi| policy(abi, default, &rules)).collect())
}

/// One rule of the configuration, checked. More than one alternative: any of them suffices.
struct Rule<'a> {
    names: &'a [String],
    action: u32,
    alternatives: Vec<Vec<Condition>>,
}

impl<'a> Rule<'a> {
    fn new(index: usize, given: &'a LinuxSyscall) -> Result<Self, PlanError> {
        let path = format!("linux.seccomp.syscalls[{index}]");
        let arguments = given.args().iter().flatten().enumerate();
        let conditions = arguments
            .map(|(n, argument)| condition(&format!("{path}.args[{n}]"), argument))
            .collect::<Result<Vec<_>, _>>()?;
        let twice = |c: &Condition| conditions.iter().filter(|other| other.index == c.index).count() > 1;
        let alternatives = match conditions.iter().any(twice) {
            true => conditions.into_iter().map(|one| vec![one]).collect(),
            false => vec![conditions],
        };
        Ok(Rule {
            names: given.names(),
            action: action(&path, given.action(), given.errno_ret())?,
            alternatives,
        })
    }
}

fn condition(path: &str, given: &LinuxSeccompArg) -> Result<Condition, PlanError> {
    match u32::try_from(given.index()) {
        Ok(index @ 0..=5) => Ok(Condition {
            index,
            operator: given.op(),
            value: given.value(),
            second: given.value_two().unwrap_or(0),
        }),
        _ => Err(PlanError::invalid(format!("{path}.index"), "must be 0 to 5")),
    }
}

fn action(path: &str, given: Action, errno: Option<u32>) -> Result<u32, PlanError> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    let with_data = matches!(given, Action::ScmpActErrno | Action::ScmpActTrace);
    if with_data && errno > MAX_ERRNO {
        return Err(PlanError::invalid(format!("{path}.errnoRet"), format!("must be at most {MAX_ERRNO}")));
    }
    Ok(match given {
        Action::ScmpActKill | Action::ScmpActKillThread => KILL_THREAD,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => TRAP,
        Action::ScmpActErrno => ERRNO | errno,
        Action::ScmpActTrace => TRACE | errno,
        Action::ScmpActLog => LOG,
        Action::ScmpActAllow => ALLOW,
        Action::ScmpActNotify => {
            return Err(PlanError::refused(path, "SCMP_ACT_NOTIFY cannot be", "use another action"));
        }
    })
}

fn policy(abi: Abi, default: u32, rules: &[Rule]) -> Policy {
    let mut calls: BTreeMap<u32, Decision> = BTreeMap::new();
    let mut newest = None;
    for rule in rules {
        let numbers = rule.names.iter().filter_map(|name| Some((name, abi.number(name)?)));
        for (name, number) in numbers {
            newest = newest.max(Some(number));
            if rule.action == default {
                continue;
            }
            for conditions in &rule.alternatives {
                let own = [(number, conditions.clone())];
                for (number, conditions) in
                    own.into_iter().chain(also(abi, name, conditions, rule.action, default))
                {
                    newest = newest.max(Some(number));
                    add(&mut calls, number, conditions, rule.action);
                }
            }
        }
    }
    // A default that permits would otherwise turn into a refusal for newer system calls.
    let stub = stricter(default, LOG) && stricter(default, TRACE) && default != UNHEARD_OF;
    Policy { abi, default, newest: newest.filter(|_| stub), calls }
}

fn add(calls: &mut BTreeMap<u32, Decision>, number: u32, conditions: Vec<Condition>, action: u32) {
    let decision = calls.entry(number).or_insert_with(|| Decision::Rules(Vec::new()));
    match decision {
        Decision::Always(_) => {}
        _ if conditions.is_empty() => *decision = Decision::Always(action),
        Decision::Rules(rules) => rules.push((conditions, action)),
    }
}
