//! `cor completion`: completions for shells.

use crate::cli::Cli;
use crate::context::Context;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cor completion bash > /etc/bash_completion.d/cor")]
pub struct Args {
    pub shell: Shell,
}

pub fn run(args: Args, _: &Context) -> anyhow::Result<u8> {
    clap_complete::generate(args.shell, &mut Cli::command(), "cor", &mut std::io::stdout());
    Ok(0)
}
