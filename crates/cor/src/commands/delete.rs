//! `cor delete`: remove a container and everything of it from the host.

use crate::context::Context;

/// Remove a stopped (or never started) container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End it first if it runs; a container that does not exist is no error
    #[arg(short, long)]
    pub force: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    for failure in sandbox::lifecycle::delete(&context.dir(&args.id)?, args.force)? {
        context.log.warn(&failure);
    }
    Ok(0)
}
