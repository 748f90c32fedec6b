//! Writes the man pages of `cor` and its commands: `cargo run --package cor --example cor_man -- DIRECTORY`.

use clap::{Command, CommandFactory};
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let directory = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "docs/man".into()));
    std::fs::create_dir_all(&directory)?;
    let mut cor = cor::cli::Cli::command().version(env!("CARGO_PKG_VERSION"));
    // Gives every command its whole name and the flags that all have.
    cor.build();
    page(&directory, "cor", cor.clone())?;
    for command in cor.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("cor-{}", command.get_name());
        page(&directory, &name, command.clone().version(env!("CARGO_PKG_VERSION")))?;
    }
    Ok(())
}

fn page(directory: &Path, name: &str, command: Command) -> std::io::Result<()> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command).section("8").title(name);
    man.manual("Clear Containers").source("Clear Containers").render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.8")), text)
}
