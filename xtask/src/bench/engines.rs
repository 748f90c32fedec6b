//! Containers of Podman and Docker with `cor`, in turn with the same ones with crun: here, and in the lab where KVM does not work here.
//!
//! The measuring is a program of the tests (`vm_tests/src/bin/engine_bench.rs`): it needs what their engines need.

use super::Arguments;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

pub fn run(root: &Path, programs: &Path, arguments: &Arguments) -> Result<()> {
    let build = ["build", "--quiet", "--locked", "--package", "vm_tests", "--bin", "engine_bench"];
    succeed(Command::new("cargo").args(build).current_dir(root))?;
    let own = std::env::current_exe().context("finding this program")?;
    let bench = own.with_file_name("engine_bench");
    let rounds = arguments.rounds.to_string();
    let programs = programs.canonicalize().context("finding the programs")?;
    let measure = |command: &mut Command| {
        let environment = [
            ("CLEAR_TEST_MINI_OS", arguments.mini_os.as_ref()),
            ("CLEAR_TEST_PROGRAMS", programs.as_os_str()),
        ];
        succeed(command.envs(environment).stdin(Stdio::null()).current_dir(root))
    };
    measure(Command::new(&bench).arg(&rounds))?;
    if host_check::kvm_probe::run(Path::new("/dev/kvm")).is_ok() {
        return Ok(());
    }
    println!(
        "\nKVM does not work here: what follows was measured in the lab, where only ratios mean anything"
    );
    let lab = ["lab", "--memory", "8192", "--timeout", "3000", "--"];
    measure(Command::new(&own).args(lab).arg(&bench).arg(&rounds))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
