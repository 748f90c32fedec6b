//! `completion`: what a shell needs to complete our command line.

use super::CommandLine;
use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::process::ExitCode;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n    clear-mini-os completion bash > /etc/bash_completion.d/clear-mini-os")]
pub struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    clap_complete::generate(
        arguments.shell,
        &mut CommandLine::command(),
        "clear-mini-os",
        &mut std::io::stdout(),
    );
    Ok(ExitCode::SUCCESS)
}
