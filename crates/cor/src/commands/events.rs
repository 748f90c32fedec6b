//! `cor events`: resource usage of a container, in runc's form.

use crate::context::Context;
use anyhow::{Context as _, bail};
use sandbox::guest::Statistics;
use sandbox::client::{self, ClientError};
use sandbox::keeper::protocol::{Reply, Request};
use sandbox::state::{Container, Status};
use serde_json::{Map, Value, json};
use std::fs;
use std::time::Duration;

/// Print the resource usage of a container as JSON, one line each time
///
/// Numbers are those of the container in its guest; "machine" is what the virtual machine costs the host.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print usage once and end
    #[arg(long)]
    pub stats: bool,
    /// Time between two lines, for example 5s
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub interval: String,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let interval: Duration = humantime::parse_duration(&args.interval)
        .with_context(|| format!("--interval {:?}: give a time like 5s or 500ms", args.interval))?;
    if interval < Duration::from_millis(10) {
        bail!("--interval {:?}: must be at least 10ms", args.interval);
    }
    let container = context.container(&args.id)?;
    println!("{}", stats(&container)?);
    if args.stats {
        return Ok(0);
    }
    loop {
        std::thread::sleep(interval);
        let container = match context.container(&args.id) {
            Ok(container) if container.status() != Status::Stopped => container,
            _ => return Ok(0),
        };
        match stats(&container) {
            Ok(line) => println!("{line}"),
            // It ended between the two lines, or is paused.
            Err(error) if error.is::<ClientError>() => {}
            Err(error) => return Err(error),
        }
    }
}

fn stats(container: &Container) -> anyhow::Result<Value> {
    let Reply::Statistics(statistics) = client::ask(&container.dir, &Request::Statistics)? else {
        bail!(ClientError::Mismatch);
    };
    let mut data = guest(&statistics);
    data["machine"] = machine(container, &statistics);
    Ok(json!({ "type": "stats", "id": container.file.id, "data": data }))
}

/// runc's `stats` out of the guest's cgroup files.
fn guest(s: &Statistics) -> Value {
    let get = |list: &[(String, u64)], key: &str| list.iter().find(|(k, _)| k == key).map_or(0, |(_, v)| *v);
    let cpu = |key: &str| get(&s.cpu, key);
    let limit = |value: u64| if value == u64::MAX { Value::Null } else { json!(value) };
    let raw: Map<String, Value> = s.memory.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let network = s.network.iter().map(|(name, rx_bytes, rx_packets, tx_bytes, tx_packets)| {
        json!({ "name": name, "rx_bytes": rx_bytes, "rx_packets": rx_packets, "tx_bytes": tx_bytes, "tx_packets": tx_packets })
    });
    let io = s.io.iter().map(|(device, op, value)| json!({ "device": device, "op": op, "value": value }));
    json!({
        "cpu": {
            "usage": { "total": cpu("usage_usec") * 1000, "kernel": cpu("system_usec") * 1000, "user": cpu("user_usec") * 1000 },
            "throttling": { "periods": cpu("nr_periods"), "throttledPeriods": cpu("nr_throttled"), "throttledTime": cpu("throttled_usec") * 1000 },
        },
        "memory": {
            "usage": { "usage": s.memory_current, "max": s.memory_peak, "limit": limit(s.memory_max), "failcnt": get(&s.memory_events, "max") },
            "cache": get(&s.memory, "file"),
            "swap": { "usage": s.swap_current },
            "oomKills": get(&s.memory_events, "oom_kill"),
            "raw": raw,
        },
        "pids": { "current": s.pids_current, "limit": limit(s.pids_max) },
        "blkio": { "ioServiceBytesRecursive": io.collect::<Vec<_>>() },
        "network_interfaces": network.collect::<Vec<_>>(),
    })
}

/// What the machine costs the host: resident memory of its processes, in bytes.
fn machine(container: &Container, s: &Statistics) -> Value {
    let file = &container.file;
    json!({
        "vmm": file.machine.vmm,
        "accelerator": file.machine.accelerator,
        "vcpus": file.machine.vcpus,
        "memory": { "size": file.machine.memory_mib << 20, "guestTotal": s.machine_memory.0, "guestAvailable": s.machine_memory.1, "agentResident": s.agent_resident },
        "host": { "vmm": file.vmm_pid.and_then(memory), "keeper": memory(file.pid) },
    })
}

/// Memory of a process out of /proc/PID/smaps_rollup, in bytes.
fn memory(pid: u32) -> Option<Value> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |text: &str, key: &str| -> u64 {
        let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        values.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>() << 10
    };
    Some(json!({
        "pss": field(&text, "Pss"),
        "private": field(&text, "Private_Clean") + field(&text, "Private_Dirty"),
        "shared": field(&text, "Shared_Clean") + field(&text, "Shared_Dirty"),
        "pageTables": field(&status, "VmPTE"),
    }))
}
