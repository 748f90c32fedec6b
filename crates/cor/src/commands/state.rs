//! `cor state`: the OCI state of a container.

use crate::context::Context;
use sandbox::lifecycle::OCI_VERSION;
use sandbox::state::Container;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Print the state of a container as JSON
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// The OCI state with runc's additional fields (`rootfs`, `created`, `owner`) and ours (`machine`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    oci_version: &'static str,
    id: String,
    pid: u32,
    status: sandbox::state::Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    oom_killed: bool,
    machine: sandbox::state::MachineSummary,
}

impl State {
    /// How `container` stands now.
    pub fn of(container: Container) -> Self {
        let (pid, status) = (container.pid(), container.status());
        let file = container.file;
        State {
            oci_version: OCI_VERSION,
            id: file.id,
            pid,
            status,
            bundle: file.bundle,
            rootfs: file.rootfs,
            created: file.created,
            annotations: file.annotations,
            owner: String::new(),
            exit_code: file.exit_code,
            oom_killed: file.oom_killed,
            machine: file.machine,
        }
    }
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let state = State::of(context.container(&args.id)?);
    println!("{}", serde_json::to_string_pretty(&state)?);
    Ok(0)
}
