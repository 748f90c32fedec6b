//! `cor run true` on clear-vmm against `crun run true`, which makes no machine.

use super::Subject;
use crate::bench::container::timed;
use crate::bench::line;
use anyhow::Result;
use std::process::{Command, Stdio};

pub fn run(subject: &Subject<'_>) -> Result<()> {
    println!("a container that runs `true`:");
    if Command::new("crun").arg("--version").output().is_err() {
        println!("crun is missing (scripts/install-deps test installs it): the comparison is left out");
        return Ok(());
    }
    let bundle = subject.bench.bundle(&["/bin/true"])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=subject.rounds {
        let mut cor = subject.bench.cor();
        cor.arg("run").arg("--bundle").arg(&bundle).arg("runtimes").stdin(Stdio::null());
        let a = timed(&mut cor)?.as_secs_f64() * 1000.0;
        let mut crun = Command::new("crun");
        crun.arg("run").arg("--bundle").arg(&bundle).arg("runtimes").stdin(Stdio::null());
        let b = timed(&mut crun)?.as_secs_f64() * 1000.0;
        if round > 0 {
            ours.push(a);
            theirs.push(b);
        }
    }
    let a = line("cor run true, on clear-vmm", ours, "ms");
    let b = line("crun run true", theirs, "ms");
    println!("{:<44} {:>10.2} x", "ratio (stated)", a / b);
    println!("where it goes, step by step:");
    let mut before = 0.0;
    for (name, at) in subject.bench.timeline("runtimes")? {
        println!("{:<44} {:>10.2} ms", format!("  + {name}"), (at - before) / 1000.0);
        before = at;
    }
    Ok(())
}
