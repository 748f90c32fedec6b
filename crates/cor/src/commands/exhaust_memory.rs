//! `cor exhaust-memory`: this program as what is killed for lack of memory. Started by the keeper, not by people.

use crate::context::Context;
use anyhow::Context as _;
use sandbox::keeper::out_of_memory;

/// Use memory, to be killed first (internal)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of bytes
    pub bytes: usize,
}

pub fn run(args: Args, _: &Context) -> anyhow::Result<u8> {
    out_of_memory::exhaust(args.bytes).context("asking to be killed first")?;
    Ok(0)
}
