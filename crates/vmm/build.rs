//! Compiles the lists of system calls in `src/jail/seccomp/lists/` to the filters that the program carries.
//!
//! ```text
//!   lists/*.rs ─► seccompiler ─► BPF, once to kill and once to log ─► OUT_DIR/filters.rs ─► src/jail/seccomp/mod.rs
//! ```

#[path = "src/jail/seccomp/lists/mod.rs"]
mod lists;

use lists::{Argument, Call, LISTS, List, OWN_PROCESS};
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/jail/seccomp/lists");
    let arch = TargetArch::try_from(std::env::var("CARGO_CFG_TARGET_ARCH")?.as_str())?;
    let mut text = String::new();
    for list in LISTS {
        let kill = instructions(&compile(list, SeccompAction::KillProcess, arch)?);
        let log = instructions(&compile(list, SeccompAction::Log, arch)?);
        writeln!(text, "pub static {}: Filter = Filter {{ kill: &[{kill}], log: &[{log}] }};", list.name)?;
    }
    let directory = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&directory).join("filters.rs"), text)?;
    Ok(())
}

fn compile(list: &List, otherwise: SeccompAction, arch: TargetArch) -> Result<BpfProgram, Box<dyn Error>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut unconditional = Vec::new();
    for Call { number, when } in list.parts.iter().copied().flatten() {
        let cases = rules.entry(*number).or_default();
        if when.is_empty() {
            unconditional.push(*number);
        }
        for case in *when {
            let conditions = case.iter().map(condition).collect::<Result<_, _>>()?;
            cases.push(SeccompRule::new(conditions)?);
        }
    }
    if std::env::var_os("CARGO_CFG_DEBUG_ASSERTIONS").is_some() {
        // With debug assertions, the standard library looks whether a descriptor that it is about to close is open.
        let is_open = Argument::Is(1, libc::F_GETFD as u32);
        rules.entry(libc::SYS_fcntl).or_default().push(SeccompRule::new(vec![condition(&is_open)?])?);
    }
    // A call that one part allows always and another in some cases.
    for number in unconditional {
        rules.insert(number, Vec::new());
    }
    Ok(SeccompFilter::new(rules, otherwise, SeccompAction::Allow, arch)?.try_into()?)
}

fn condition(argument: &Argument) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (index, operator, value) = match *argument {
        Argument::Is(index, value) => (index, Eq, value),
        Argument::Has(index, bits) => (index, MaskedEq(bits.into()), bits),
        Argument::IsOwnProcess(index) => (index, Eq, OWN_PROCESS),
        Argument::Lacks(index, bits) => (index, MaskedEq(bits.into()), 0),
    };
    SeccompCondition::new(index, Dword, operator, value.into())
}

fn instructions(program: &BpfProgram) -> String {
    program
        .iter()
        .map(|one| format!("instruction({}, {}, {}, {}),", one.code, one.jt, one.jf, one.k))
        .collect()
}
