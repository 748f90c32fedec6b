//! `cor env`: versions and paths, for bug reports.

use crate::context::Context;
use serde_json::json;

/// Print versions, paths and facts of this host as JSON, for bug reports
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_: Args, context: &Context) -> anyhow::Result<u8> {
    let configuration = context.configuration()?;
    let store = sandbox::mini_os::store();
    let mini_os = match sandbox::mini_os::load(&configuration, &store) {
        Ok(found) => serde_json::to_value(found)?,
        Err(error) => json!({ "error": error.to_string() }),
    };
    let kernel = rustix::system::uname();
    let report = json!({
        "cor": { "version": env!("CARGO_PKG_VERSION"), "ociVersion": sandbox::lifecycle::OCI_VERSION,
                 "program": std::env::current_exe()?, "root": context.root()? },
        "configuration": { "file": context.global.config.clone().unwrap_or(sandbox::configuration::PATH.into()),
                           "values": configuration },
        "host": { "kernel": kernel.release().to_string_lossy(), "facts": context.facts() },
        "miniOs": { "store": store, "inUse": mini_os },
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(0)
}
