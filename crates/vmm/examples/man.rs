//! Writes the man pages of `clear-vmm` and its commands: `cargo run --package vmm --example vmm_man -- DIRECTORY`.

use clap::{Command, CommandFactory};
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let directory = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "docs/man".into()));
    std::fs::create_dir_all(&directory)?;
    // The command `help` shows what the pages say; it needs none of its own.
    let mut program = vmm::cli::Cli::command().disable_help_subcommand(true);
    // Gives every command its whole name.
    program.build();
    pages(&directory, "clear-vmm", &program)
}

/// The page of a command and those of the commands below it.
fn pages(directory: &Path, name: &str, command: &Command) -> std::io::Result<()> {
    page(directory, name, command.clone().version(env!("CARGO_PKG_VERSION")))?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.into_iter().try_for_each(|below| pages(directory, &format!("{name}-{}", below.get_name()), below))
}

fn page(directory: &Path, name: &str, command: Command) -> std::io::Result<()> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command).section("8").title(name);
    man.manual("Clear Containers").source("Clear Containers").render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.8")), text)
}
