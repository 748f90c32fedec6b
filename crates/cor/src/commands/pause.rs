//! `cor pause`: stop all vCPUs of a container's machine.

use crate::context::Context;
use sandbox::client;
use sandbox::keeper::protocol::Request;

/// Stop a running container: its virtual machine stands still
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    client::command(&context.container(&args.id)?.dir, &Request::Pause)?;
    Ok(0)
}
