//! The command line: one file per command.

mod build;
mod completion;
mod gc;
mod list;
mod verify;

use crate::store::Store;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use machine_spec::mini_os::{STORE, STORE_VARIABLE};
use std::path::PathBuf;
use std::process::ExitCode;

/// Builds the kernel and the image that container machines boot.
#[derive(Debug, Parser)]
#[command(
    name = "clear-mini-os",
    version,
    after_help = "A first mini-OS, in about a minute, without compiling a kernel:\n\n    clear-mini-os build\n\n\
A small and fast one, from source:\n\n    clear-mini-os build --kernel source --default\n\n\
Every build is stored under the hash of what went into it; names point to builds. See `clear-mini-os help build`."
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Arguments),
    List(list::Arguments),
    Verify(verify::Arguments),
    Gc(gc::Arguments),
    Completion(completion::Arguments),
}

/// Where the mini-OSes are.
#[derive(Debug, Args)]
struct StoreArguments {
    /// Directory of the store [default: $CLEAR_MINI_OS_STORE or /var/lib/clear-containers/mini-os]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl StoreArguments {
    fn path(&self) -> PathBuf {
        let variable = || std::env::var_os(STORE_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        self.store.clone().or_else(variable).unwrap_or_else(|| STORE.into())
    }

    fn open(&self) -> Store {
        Store::new(self.path())
    }
}

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever stopped the command, as a chain from what was tried to why it failed.
pub fn run(line: CommandLine) -> Result<ExitCode> {
    match line.command {
        Command::Build(arguments) => build::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Completion(arguments) => completion::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn unknown_options_are_refused() {
        let error = CommandLine::try_parse_from(["clear-mini-os", "build", "--colour"]).unwrap_err();
        assert!(error.to_string().contains("--colour"));
        let error = CommandLine::try_parse_from(["clear-mini-os", "build", "--kernel", "bsd"]).unwrap_err();
        assert!(error.to_string().contains("debian"), "{error}");
    }
}
