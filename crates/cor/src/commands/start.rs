//! `cor start`: run the program of a created container.

use crate::context::Context;

/// Run the program of a created container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    sandbox::lifecycle::start(&context.dir(&args.id)?)?;
    Ok(0)
}
