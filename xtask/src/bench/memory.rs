//! What an idle container costs the host.

use super::container::{Bench, succeed};
use super::line;
use anyhow::Result;
use serde_json::Value;

const MIB: f64 = 1024.0 * 1024.0;

pub fn run(bench: &Bench, rounds: usize) -> Result<()> {
    let mut values: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds.min(3) {
        let running = bench.sleeper("memory")?;
        let output = succeed(bench.cor().args(["events", "--stats", &running.id]))?;
        let event: Value = serde_json::from_slice(&output.stdout)?;
        let machine = &event["data"]["machine"];
        let host = &machine["host"];
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN) / MIB;
        values[0].push(number(&host["keeper"]["private"]));
        values[1].push(number(&machine["memory"]["agentResident"]));
        values[2].push(number(&host["vmm"]["private"]));
        values[3].push(number(&machine["memory"]["size"]));
    }
    let names = [
        "keeper, private (budget 3 MiB)",
        "agent, resident (budget 2 MB)",
        "VMM, private, guest memory in use included",
        "guest memory, size",
    ];
    for (name, values) in names.iter().zip(values) {
        line(name, values, "MiB");
    }
    Ok(())
}
