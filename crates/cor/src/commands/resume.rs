//! `cor resume`: let the vCPUs of a paused container run again.

use crate::context::Context;
use sandbox::client;
use sandbox::keeper::protocol::Request;

/// Let a paused container run again
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    client::command(&context.container(&args.id)?.dir, &Request::Resume)?;
    Ok(0)
}
