//! `cargo xtask bench`: what `make bench` runs. Side-by-side measurements: A and B in turn within one run, medians and
//! ratios, because this or any machine's milliseconds mean little alone.
//!
//! ```text
//!   boot.rs      cor run true  against  the same QEMU command line with an init that only resets
//!   commands.rs  state, list, kill, exec; the host's share of create
//!   memory.rs    keeper and VMM of an idle container
//!   stdio.rs     1 GiB through stdout and stdin, with checksums
//!   engines.rs   `podman run` and `docker run` against the same with crun; network; 50 containers at once
//!   vmm/         clear-vmm against QEMU on KVM, in the lab where KVM does not work
//! ```

mod boot;
mod commands;
mod container;
mod engines;
mod memory;
mod resources;
mod stdio;
mod vmm;

use anyhow::Result;
use container::Bench;
use std::path::{Path, PathBuf};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Repetitions of each measurement
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Only these measurements: boot, commands, memory, stdio, engines, vmm
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Name of the mini-OS to boot
    #[arg(long, default_value = "container")]
    mini_os: String,
    /// Directory with the programs [default: target/release]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Measures and prints one table per subject.
///
/// # Errors
/// When a container cannot be run, or data came through changed.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let programs = arguments.programs.clone().unwrap_or_else(|| root.join("target/release"));
    let bench = Bench::new(&programs, &arguments.mini_os)?;
    type Subject = fn(&Bench, usize) -> Result<()>;
    let subjects: [(&str, Subject); 4] =
        [("boot", boot::run), ("commands", commands::run), ("memory", memory::run), ("stdio", stdio::run)];
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    for (name, subject) in subjects {
        if wanted(name) {
            println!("\n== {name}");
            subject(&bench, arguments.rounds.max(1))?;
        }
    }
    if wanted("engines") {
        println!("\n== engines");
        engines::run(root, &programs, arguments)?;
    }
    if wanted("vmm") {
        println!("\n== vmm");
        vmm::run(root, &bench, &programs, arguments)?;
    }
    Ok(())
}

/// The middle of some values, and how far the middle half of them reaches.
fn median(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    (at(0.5), at(0.25), at(0.75))
}

/// One line of a table: name, median, middle half, unit.
fn line(name: &str, mut values: Vec<f64>, unit: &str) -> f64 {
    let (middle, low, high) = median(&mut values);
    println!("{name:<44} {middle:>10.2} {unit:<5} (middle half {low:.2} to {high:.2}, n={})", values.len());
    middle
}
