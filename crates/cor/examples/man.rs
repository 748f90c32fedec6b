//! Writes the man pages of `cor` and its commands: `cargo run --package cor --example man -- DIRECTORY`.

use clap::CommandFactory;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "docs/man".into()));
    std::fs::create_dir_all(&directory)?;
    let cor = cor::cli::Cli::command().version(env!("CARGO_PKG_VERSION"));
    page(&directory, "cor", cor.clone())?;
    for command in cor.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("cor-{}", command.get_name());
        page(&directory, &name, command.clone().name(name.clone()).version(env!("CARGO_PKG_VERSION")))?;
    }
    Ok(())
}

fn page(directory: &std::path::Path, name: &str, command: clap::Command) -> std::io::Result<()> {
    let name: &'static str = Box::leak(name.to_string().into_boxed_str());
    let mut text = Vec::new();
    clap_mangen::Man::new(command.display_name(name)).section("8").manual("Clear Containers").source("Clear Containers").render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.8")), text)
}
