//! `cargo xtask <task>`: what contributors and continuous integration run. One file per task.

mod bench;
mod ci;
mod fuzz;
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
    /// Write the man pages from the programs' own help.
    Man(man::Arguments),
}

fn main() -> ExitCode {
    let root = workspace_root();
    let result = match Arguments::parse().task {
        Task::Tidy => tidy::run(&root),
        Task::Ci(arguments) => ci::run(&root, &arguments),
        Task::Bench(arguments) => bench::run(&root, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&root, &arguments),
        Task::Man(arguments) => man::run(&root, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The checkout that cargo runs this program for. Where it was built is no answer when two checkouts share a target directory.
fn workspace_root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let here = Path::new(&here);
    here.parent().unwrap_or(here).to_owned()
}
