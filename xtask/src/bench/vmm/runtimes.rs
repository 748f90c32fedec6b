//! `cor run true` on clear-vmm against `crun run true`, which makes no machine; the same of `exec true` in a container that runs.

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
    exec(subject)
}

/// A container of crun's; deleted when dropped.
struct Theirs;

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = Command::new("crun").args(["delete", "--force", "runtimes-exec"]).output();
    }
}

fn exec(subject: &Subject<'_>) -> Result<()> {
    println!("`true` in a container that runs:");
    let ours = subject.bench.sleeper("runtimes-exec")?;
    let bundle = subject.bench.bundle(&["/bin/sleep", "100000"])?;
    let _theirs = Theirs;
    let mut start = Command::new("crun");
    start.args(["run", "--detach", "--bundle"]).arg(bundle).arg("runtimes-exec");
    timed(start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..=subject.rounds.max(11) {
        for (mut command, times) in [(subject.bench.cor(), &mut a), (Command::new("crun"), &mut b)] {
            command.args(["exec", "runtimes-exec", "/bin/true"]).stdin(Stdio::null());
            let time = timed(&mut command)?.as_secs_f64() * 1000.0;
            if round > 0 {
                times.push(time);
            }
        }
    }
    drop(ours);
    let a = line("cor exec true, on clear-vmm", a, "ms");
    let b = line("crun exec true", b, "ms");
    println!("{:<44} {:>10.2} x", "ratio (budget 1.0 and a round trip)", a / b);
    Ok(())
}
