//! `cor restore`: refused with the reason.

use crate::context::Context;
use anyhow::bail;

/// Not supported: a virtual machine is not checkpointed with CRIU
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whatever runc would take
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

pub fn run(_: Args, _: &Context) -> anyhow::Result<u8> {
    bail!("restore is not supported: the container's processes live in a virtual machine, which CRIU cannot see; use `cor pause` to hold a container")
}
