//! Commands on a container that runs, and the host's share of `create`.

use super::container::{Bench, timed};
use super::line;
use anyhow::Result;
use std::process::Stdio;

pub fn run(bench: &Bench, rounds: usize) -> Result<()> {
    let running = bench.sleeper("commands")?;
    let commands: [(&str, &[&str]); 4] = [
        ("state (budget 15 ms)", &["state", "commands"]),
        ("list (budget 15 ms)", &["list"]),
        ("kill CONT (budget 15 ms)", &["kill", "commands", "CONT"]),
        ("exec true", &["exec", "commands", "/bin/true"]),
    ];
    let mut times = vec![Vec::new(); commands.len()];
    for _ in 0..rounds.max(11) {
        for ((_, words), times) in commands.iter().zip(&mut times) {
            let mut command = bench.cor();
            command.args(*words).stdin(Stdio::null()).stdout(Stdio::null());
            times.push(timed(&mut command)?.as_secs_f64() * 1000.0);
        }
    }
    for ((name, _), times) in commands.iter().zip(times) {
        line(name, times, "ms");
    }
    drop(running);
    create(bench, rounds)
}

/// Everything of `create` that is not the machine: until QEMU is started, and from the agent's call on.
fn create(bench: &Bench, rounds: usize) -> Result<()> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let running = bench.sleeper("create")?;
        let timeline = bench.timeline(&running.id)?;
        let at = |wanted: &str| {
            timeline.iter().find(|(name, _)| name == wanted).map_or(0.0, |(_, at)| at / 1000.0)
        };
        before.push(at("VMM started"));
        after.push(at("created") - at("set-up sent"));
    }
    line("create: host, until the VMM is started", before, "ms");
    line("create: guest set-up after the agent called", after, "ms");
    Ok(())
}
