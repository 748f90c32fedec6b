//! `cor user-network`: this program as the guard of a pasta process. Started by the keeper, not by people.

use crate::context::Context;
use anyhow::Context as _;
use sandbox::host::network::user::{Duty, guard};
use std::path::PathBuf;

/// Keep one user-space network (internal)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    pub namespace: PathBuf,
    #[arg(long)]
    pub ready: PathBuf,
    pub program: PathBuf,
}

pub fn run(args: Args, _: &Context) -> anyhow::Result<u8> {
    let Args { namespace, ready, program } = args;
    let starting = format!("starting {}", program.display());
    guard(&Duty { program, namespace, ready }).context(starting)?;
    Ok(0)
}
