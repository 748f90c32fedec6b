//! The commands of `clear-vmm`.

mod ctl;
mod run;
mod serve;

use clap::Subcommand;
use std::process::ExitCode;
use std::time::Instant;

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a machine until its guest ends it
    Run(Box<run::Args>),
    /// Serve a directory to another VMM by vhost-user
    Serve(serve::Args),
    /// Control a running machine: pause it, change its devices, see what it does
    Ctl(ctl::Args),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// Whatever the command could not do.
    pub fn run(self, start: Instant) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => run::run(*args, start),
            Command::Serve(args) => serve::run(args),
            Command::Ctl(args) => ctl::run(args),
        }
    }
}
