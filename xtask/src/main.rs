//! `cargo xtask <task>`: what contributors and continuous integration run. One file per task.

mod bench;
mod ci;
mod fuzz;
mod lab;
mod man;
mod tidy;
mod tree;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tasks for contributors to Clear Containers.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the house rules that a program can check.
    Tidy,
    /// Run everything that continuous integration runs, in order, and stop at the first failure.
    Ci(ci::Arguments),
    /// Measure what docs/budgets.md promises, side by side with what it is compared to.
    Bench(bench::Arguments),
    #[command(about = fuzz::ABOUT, long_about = fuzz::HELP)]
    Fuzz(fuzz::Arguments),
    /// Run a command where /dev/kvm works: here, or on an emulated machine.
    #[command(long_about = lab::HELP)]
    Lab(lab::Arguments),
    /// PID 1 of the lab.
    #[command(name = lab::init::COMMAND, hide = true)]
    LabInit,
    /// Write the man pages from the programs' own help.
    Man(man::Arguments),
}

fn main() -> ExitCode {
    let root = workspace_root();
    let success = |()| ExitCode::SUCCESS;
    let (result, failed) = match Arguments::parse().task {
        Task::Tidy => (tidy::run(&root).map(success), 1),
        Task::Ci(arguments) => (ci::run(&root, &arguments).map(success), 1),
        Task::Bench(arguments) => (bench::run(&root, &arguments).map(success), 1),
        Task::Fuzz(arguments) => (fuzz::run(&root, &arguments).map(success), 1),
        Task::Lab(arguments) => (lab::run(&root, &arguments), lab::FAILED),
        Task::LabInit => (lab::init::run(), 1),
        Task::Man(arguments) => (man::run(&root, &arguments).map(success), 1),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(failed)
    })
}

/// The checkout that cargo runs this program for. Where it was built is no answer when two checkouts share a target directory.
fn workspace_root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let here = Path::new(&here);
    here.parent().unwrap_or(here).to_owned()
}
