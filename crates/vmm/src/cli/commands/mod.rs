//! The commands of `clear-vmm`.

mod run;

use clap::Subcommand;
use std::process::ExitCode;
use std::time::Instant;

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a machine until its guest ends it
    Run(run::Args),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// Whatever the command could not do.
    pub fn run(self, start: Instant) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => run::run(args, start),
        }
    }
}
