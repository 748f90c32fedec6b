//! The command line: one file for each command in [`commands`].

pub mod commands;
mod console;
mod options;
pub mod spec;

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;

/// Runs virtual machines: one process, one machine, on KVM.
#[derive(Debug, Parser)]
#[command(name = "clear-vmm", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

/// Shown below `--help`.
const EXIT_CODES: &str = "\
Exit codes of `run`:
  0    the guest has reset the machine (`reboot`), which ends it
  3    the guest has switched itself off
  4    ended by `clear-vmm ctl shutdown`
  10   the guest's kernel has panicked
  11   triple fault: the guest's kernel crashed early
  12   KVM could not go on
  128+N  ended by signal N
  1    nothing was started: the message says why
  2    wrong usage";

/// Does what was asked for.
pub fn run(start: Instant) -> ExitCode {
    let cli = Cli::parse();
    match cli.command.run(start) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("clear-vmm: {error}");
            ExitCode::from(1)
        }
    }
}
