//! `cargo xtask ci`: what `make test` runs, in order: what is quick and breaks often comes first.

use crate::tree::Tree;
use crate::{fuzz, lab, man, tidy};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Which steps to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Show the steps and run none
    #[arg(long)]
    list: bool,
    /// Run only these steps
    #[arg(long, value_name = "STEP", num_args = 1.., conflicts_with = "list")]
    only: Vec<String>,
}

/// What a step does.
enum Work {
    /// Runs cargo with these words.
    Cargo(&'static [&'static str]),
    /// Runs another program with these words.
    Program(&'static str, &'static [&'static str]),
    /// Runs a part of this program.
    Own(fn(&Path) -> Result<()>),
}

struct Step {
    name: &'static str,
    headline: &'static str,
    work: Work,
}

const STEPS: &[Step] = &[
    Step { name: "format", headline: "source is formatted", work: Work::Cargo(&["fmt", "--all", "--check"]) },
    Step { name: "tidy", headline: "house rules", work: Work::Own(tidy::run) },
    Step { name: "man", headline: "man pages are as the programs say", work: Work::Own(man::check) },
    Step { name: "scripts", headline: "shell scripts", work: Work::Own(check_scripts) },
    Step {
        name: "lint",
        headline: "lints, warnings are errors",
        work: Work::Cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ]),
    },
    Step {
        name: "unit",
        headline: "unit, golden and property tests",
        work: Work::Cargo(&["test", "--workspace", "--exclude", "vm_tests", "--locked"]),
    },
    Step {
        name: "fuzz",
        headline: "fuzz targets: all that was found before, and some seconds more",
        work: Work::Own(fuzz::in_ci),
    },
    Step {
        name: "build",
        headline: "programs as they are installed",
        work: Work::Program("make", &["build"]),
    },
    Step {
        name: "mini-os",
        headline: "kernels and images that the end-to-end tests boot",
        work: Work::Own(build_mini_os),
    },
    Step {
        name: "conformance",
        headline: "our OCI runtime tests on a runtime of others",
        work: Work::Cargo(&["run", "--package", "conformance", "--locked", "--", "--runtime", "crun"]),
    },
    Step { name: "end-to-end", headline: "real containers in real machines", work: Work::Own(end_to_end) },
    Step { name: "engines", headline: "what users of container engines type", work: Work::Own(engines) },
    Step {
        name: "lab",
        headline: "some of them on a KVM host, on every kind of machine",
        work: Work::Own(end_to_end_in_lab),
    },
];

/// Runs the steps until one fails.
///
/// # Errors
/// The step that failed, and how to run it alone.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    if let Some(unknown) = arguments.only.iter().find(|name| !STEPS.iter().any(|step| step.name == **name)) {
        bail!("there is no step `{unknown}`; see: cargo xtask ci --list");
    }
    let wanted =
        |step: &&Step| arguments.only.is_empty() || arguments.only.iter().any(|name| name == step.name);
    let steps: Vec<_> = STEPS.iter().filter(wanted).collect();
    let start = Instant::now();
    for (number, step) in steps.iter().enumerate() {
        if arguments.list {
            println!("{:<12} {}", step.name, step.headline);
            continue;
        }
        println!("\n== {}/{} {}: {}", number + 1, steps.len(), step.name, step.headline);
        let begun = Instant::now();
        step.work.run(root).with_context(|| {
            format!(
                "step {} failed after {}; alone: cargo xtask ci --only {}",
                step.name,
                seconds(begun.elapsed()),
                step.name
            )
        })?;
        println!("== {} passed in {}", step.name, seconds(begun.elapsed()));
    }
    if !arguments.list {
        println!("\nci: all {} steps passed in {}", steps.len(), seconds(start.elapsed()));
    }
    Ok(())
}

impl Work {
    fn run(&self, root: &Path) -> Result<()> {
        match self {
            Self::Own(part) => part(root),
            Self::Program(program, words) => succeed(
                Command::new(program).args(*words).current_dir(root),
                &format!("{program} {}", words.join(" ")),
            ),
            Self::Cargo(words) => {
                // Set when started by cargo: the same toolchain then.
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                succeed(
                    Command::new(cargo).args(*words).current_dir(root),
                    &format!("cargo {}", words.join(" ")),
                )
            }
        }
    }
}

/// Runs shellcheck over every shell script, which is told by its first line.
fn check_scripts(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let is_shell = |text: &str| {
        let first = text.lines().next().unwrap_or("");
        first.starts_with("#!") && first.split(['/', ' ']).any(|word| word == "sh" || word == "bash")
    };
    let scripts: Vec<_> =
        tree.files.iter().filter(|file| is_shell(&file.text)).map(|file| &file.path).collect();
    if scripts.is_empty() {
        bail!("no shell script found in {}; scripts/install-deps at least should be there", root.display());
    }
    let doing = format!("shellcheck of {} scripts (not installed? scripts/install-deps test)", scripts.len());
    succeed(Command::new("shellcheck").args(&scripts).current_dir(root), &doing)?;
    println!("shellcheck: {} scripts", scripts.len());
    Ok(())
}

/// Builds both kinds of mini-OS, and the lab's kernel, which drives virtual functions too, into the system's store, where they are found
/// again the next time.
fn build_mini_os(root: &Path) -> Result<()> {
    let program = root.join("target/release/clear-mini-os");
    let tested = ["--kernel", "source", "--profile", TESTED_PROFILE];
    let lab = ["--kernel", "source", "--profile", WITH_ADAPTERS];
    for words in [["--kernel", "debian"].as_slice(), &tested, &lab] {
        let mut command = Command::new(&program);
        command.arg("build").args(words).current_dir(root);
        succeed(&mut command, &format!("clear-mini-os build {}", words.join(" ")))?;
    }
    Ok(())
}

/// Profile of the kernel that most end-to-end tests boot: what it has, `container` has too, and it compiles in half the time.
const TESTED_PROFILE: &str = "core";

fn end_to_end(root: &Path) -> Result<()> {
    vm_tests(root, &["--lib", "--test", "end_to_end", "--test", "machines"])
}

fn engines(root: &Path) -> Result<()> {
    vm_tests(root, &["--test", "engines"])
}

fn vm_tests(root: &Path, which: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--package", "vm_tests", "--locked"]).args(which).current_dir(root);
    command.env("CLEAR_TEST_MINI_OS", TESTED_PROFILE);
    command.env("CLEAR_TEST_PROGRAMS", root.join("target/release"));
    succeed(&mut command, &format!("cargo test --package vm_tests {}", which.join(" ")))
}

/// Which tests run in the lab on each of [`MACHINES`], one after another: few that show the whole way. CONTRIBUTING.md says how to run all
/// tests there.
const IN_LAB: [&str; 6] = [
    "exec::exec_takes_user_directory_environment_and_passes_streams_and_exit_code",
    "hooks::host_hooks_run_in_order_with_the_state_on_their_input",
    "network::an_interface_that_comes_by_a_hook_or_before_start_is_there",
    "pause::a_paused_container_stands_still_until_it_is_resumed",
    "run::the_exit_code_is_the_programs",
    "stdio::every_byte_passes_both_ways_and_end_of_input_arrives",
];

/// Which tests run under engines in the lab, on clear-vmm and with control groups of version 2.
const ENGINES_IN_LAB: [&str; 9] = [
    "a_block_device_is_passed",
    "a_paused_container_stands_still",
    "a_terminal_is_one_and_follows_its_size",
    "containerd::metrics_are_told",
    "containers_reach_each_other_by_name",
    "copies_go_both_ways",
    "exec_passes_streams_and_exit_code",
    "memory_is_limited_and_its_end_is_told",
    "ports_are_published",
];

/// Machines that [`IN_LAB`] run on: every backend and board, with every root that it has. On the first one nothing is asked for, so `cor` finds
/// that KVM works and takes clear-vmm with persistent memory.
const MACHINES: [&str; 6] = [
    "",
    "root=disk",
    "root=initramfs",
    "backend=qemu,chassis=microvm",
    "backend=qemu,chassis=q35",
    "backend=qemu,chassis=q35,root=disk",
];

/// Some of the same tests on every kind of machine; then those of clear-vmm alone, some under engines, and those that pass an adapter.
fn end_to_end_in_lab(root: &Path) -> Result<()> {
    for machine in MACHINES {
        println!("\non {}:", if machine.is_empty() { "clear-vmm" } else { machine });
        in_lab(root, "end_to_end", &IN_LAB, machine, &[], TESTED_PROFILE)?;
    }
    in_lab(root, "machines", &[], "", &[], TESTED_PROFILE)?;
    println!("\nunder container engines:");
    in_lab(root, "engines", &ENGINES_IN_LAB, "", &[], TESTED_PROFILE)?;
    println!("\nwith virtual functions of a network adapter:");
    in_lab(root, "sriov", &[], "", &["--sriov"], WITH_ADAPTERS)
}

/// The mini-OS whose kernel has the driver of the lab's virtual functions: the lab's own.
const WITH_ADAPTERS: &str = "lab-host";

/// Seconds for one test program in the lab; on two idle cores they take half a minute, and one and a half.
const LAB_TIME: &str = "600";

/// Runs tests of a test program one after another in one boot of the lab; without names all. When the lab itself fails, which is not the
/// tests' fault (docs/adr/0008-one-cpu-in-the-lab.md), they run once more in another.
fn in_lab(
    root: &Path,
    tests: &str,
    names: &[&str],
    machine: &str,
    options: &[&str],
    mini_os: &str,
) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command
        .args(["lab", "--cpus", "1", "--memory", "4096", "--timeout", LAB_TIME])
        .args(options)
        .arg("--")
        .arg(test_program(root, tests)?);
    command.args(["--test-threads", "1"]).args(names);
    command.env("CLEAR_TEST_MINI_OS", mini_os);
    command.env("CLEAR_TEST_PROGRAMS", root.join("target/release")).current_dir(root.join("vm_tests"));
    command.env("CLEAR_TEST_MACHINE", machine);
    let doing = format!("the tests of {tests} in the lab");
    let status = command.status().with_context(|| format!("starting {doing}"))?;
    if status.code() != Some(i32::from(lab::FAILED)) {
        return check(status, &doing);
    }
    println!("\nThe lab itself failed; once more in another:");
    succeed(&mut command, &doing)
}

/// The program that cargo makes of these tests; built, since nobody compiles in the lab.
fn test_program(root: &Path, tests: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--package", "vm_tests", "--locked", "--test", tests, "--no-run"]);
    command.arg("--message-format=json-render-diagnostics").current_dir(root).stderr(Stdio::inherit());
    let output = command.output().context("starting cargo")?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == tests)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo did not build the tests of {tests}"))
}

fn succeed(command: &mut Command, doing: &str) -> Result<()> {
    check(command.status().with_context(|| format!("starting {doing}"))?, doing)
}

fn check(status: ExitStatus, doing: &str) -> Result<()> {
    ensure!(status.success(), "{doing}: {status}");
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> Arguments {
        Arguments { list: false, only: names.iter().map(|&name| name.to_owned()).collect() }
    }

    #[test]
    fn an_unknown_step_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = run(directory.path(), &only(&["tidy", "dance"])).unwrap_err().to_string();
        assert!(error.contains("dance") && error.contains("--list"), "{error}");
    }

    #[test]
    fn a_failed_step_ends_the_run_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = run(directory.path(), &only(&["tidy"])).unwrap_err().to_string();
        assert!(error.contains("step tidy failed") && error.contains("--only tidy"), "{error}");
    }
}
