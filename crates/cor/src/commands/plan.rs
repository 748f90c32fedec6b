//! `cor plan`: what would happen, without doing it.

use crate::context::Context;
use std::path::PathBuf;

/// Print everything that `create` would do for a bundle, as JSON: on the host, as machine, in the guest
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Name the container would have
    #[arg(value_name = "CONTAINER-ID", default_value = "plan")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let plan = context.plan(&args.id, &args.bundle)?;
    println!("{}", serde_json::to_string_pretty(&plan)?);
    Ok(0)
}
