//! `cor update`: new limits for a container that exists.

use crate::context::Context;
use anyhow::{Context as _, bail};
use oci_spec::runtime::LinuxResources;
use sandbox::client;
use sandbox::keeper::protocol::Request;
use sandbox::plan;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// Change the limits of a container: CPU, memory, number of processes
///
/// The virtual machine keeps the size it was created with, so CPU and memory limits can move up to that size.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with linux.resources as in config.json, `-` for standard input
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub resources: Option<PathBuf>,
    /// CPU time per period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Period, microseconds
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// Burst, microseconds
    #[arg(long, value_name = "US")]
    pub cpu_burst: Option<u64>,
    /// Share of CPU time relative to others, 2 to 262144
    #[arg(long, value_name = "N")]
    pub cpu_share: Option<u64>,
    /// 1 to run only when nothing else wants to
    #[arg(long, value_name = "0|1")]
    pub cpu_idle: Option<i64>,
    /// CPUs of the host it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes of the host it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory limit, bytes (or with k, m, g)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory that is kept for it, bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap, bytes; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Number of processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// IO weight, 10 to 1000
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let container = context.container(&args.id)?;
    let resources = resources(&args)?;
    let plan = sandbox::lifecycle::read_plan(&container.dir)?;
    let mut warnings = Vec::new();
    let (guest, host) = plan::update(&resources, &plan, &mut warnings)?;
    warnings.iter().for_each(|warning| context.log.warn(warning));
    client::command(&container.dir, &Request::Update { guest: Box::new(guest), host: Box::new(host) })?;
    Ok(0)
}

/// The file, with what the flags change.
fn resources(args: &Args) -> anyhow::Result<LinuxResources> {
    let mut value = match &args.resources {
        None => json!({}),
        Some(path) => {
            let mut text = String::new();
            let read = match path.as_os_str() == "-" {
                true => std::io::stdin().take(1 << 20).read_to_string(&mut text).map(drop),
                false => fs::read_to_string(path).map(|content| text = content),
            };
            read.with_context(|| format!("reading resources from {}", path.display()))?;
            let value: Value =
                serde_json::from_str(&text).with_context(|| format!("resources in {}", path.display()))?;
            if !value.is_object() {
                bail!("resources in {}: must be an object as linux.resources in config.json", path.display());
            }
            value
        }
    };
    let mut put = |section: &str, key: &str, new: Option<Value>| {
        if let Some(new) = new {
            value[section][key] = new;
        }
    };
    put("cpu", "quota", args.cpu_quota.map(Value::from));
    put("cpu", "period", args.cpu_period.map(Value::from));
    put("cpu", "burst", args.cpu_burst.map(Value::from));
    put("cpu", "shares", args.cpu_share.map(Value::from));
    put("cpu", "idle", args.cpu_idle.map(Value::from));
    put("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from));
    put("cpu", "mems", args.cpuset_mems.clone().map(Value::from));
    put("memory", "limit", bytes("--memory", args.memory.as_deref())?);
    put("memory", "reservation", bytes("--memory-reservation", args.memory_reservation.as_deref())?);
    put("memory", "swap", bytes("--memory-swap", args.memory_swap.as_deref())?);
    put("pids", "limit", args.pids_limit.map(Value::from));
    put("blockIO", "weight", args.blkio_weight.map(Value::from));
    serde_json::from_value(value).context("resources")
}

fn bytes(flag: &str, text: Option<&str>) -> anyhow::Result<Option<Value>> {
    text.map(|text| super::parse_bytes(text).map(Value::from).with_context(|| format!("{flag} {text:?}"))).transpose()
}
