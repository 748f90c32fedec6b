//! `cor spec`: a config.json to start from.

use crate::context::Context;
use anyhow::{Context as _, bail};
use sandbox::bundle;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Write a new config.json, the same as runc's, for a program `sh` on a terminal
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write it to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// For a user without privileges, with a user namespace
    #[arg(long = "rootless")]
    pub for_user: bool,
}

pub fn run(args: Args, _: &Context) -> anyhow::Result<u8> {
    let path = args.bundle.join("config.json");
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let spec = if args.for_user { bundle::rootless_spec(uid, gid) } else { bundle::spec() };
    let mut text = serde_json::to_string_pretty(&spec)?.replace("  ", "\t");
    text.push('\n');
    match File::create_new(&path) {
        Ok(mut file) => file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("file {} exists: remove it first", path.display())
        }
        Err(e) => return Err(e).with_context(|| format!("creating {}", path.display())),
    }
    Ok(0)
}
