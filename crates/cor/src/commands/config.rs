//! `cor config`: the configuration in force, or the documented default file.

use crate::context::Context;
use sandbox::configuration::DEFAULT_FILE;

/// Show the configuration
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the values in force and where each comes from (the default)
    #[arg(long)]
    pub show: bool,
    /// Print the documented default file, to start a file of your own from
    #[arg(long, conflicts_with = "show")]
    pub default: bool,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    if args.default {
        print!("{DEFAULT_FILE}");
    } else {
        print!("{}", context.configuration()?.show());
    }
    Ok(0)
}
