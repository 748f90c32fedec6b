//! A guest of five instructions: all that is measured is the VMM. It runs where KVM boots no Linux, too.

use crate::bench::container::{Bench, succeed};
use crate::bench::line;
use anyhow::{Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Writes stamp 1 to port 0x5C0, then asks the keyboard controller for a reset.
const GUEST: &str = "\
.globl _start
_start:
    mov $0x5c0, %dx
    mov $1, %al
    out %al, %dx
    mov $0xfe, %al
    out %al, $0x64
1:  hlt
    jmp 1b
";

pub fn run(bench: &Bench, program: &Path, rounds: usize) -> Result<()> {
    if !Path::new("/dev/kvm").exists() {
        println!("no /dev/kvm: the five-instruction guest is left out");
        return Ok(());
    }
    let (source, guest) = (bench.directory().join("tiny.S"), bench.directory().join("tiny"));
    fs::write(&source, GUEST)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-nostdlib", "-static", "-Wl,-Ttext=0x1000000", "-Wl,--build-id=none", "-o"]);
    succeed(compiler.arg(&guest).arg(&source))?;
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for round in 0..=rounds.max(1) {
        let begun = Instant::now();
        let mut command = Command::new(program);
        let output =
            command.args(["run", "--stamps", "--kernel"]).arg(&guest).stdin(Stdio::null()).output()?;
        let time = begun.elapsed().as_secs_f64() * 1000.0;
        let text = String::from_utf8_lossy(&output.stderr);
        let stamp = text.lines().find_map(|line| {
            line.strip_prefix("clear-vmm: stamp 1: ")?.strip_suffix(" ms")?.parse::<f64>().ok()
        });
        let (true, Some(stamp)) = (output.status.success(), stamp) else {
            bail!("the five-instruction guest did not run: {}: {text}", output.status);
        };
        if round > 0 {
            first.push(stamp);
            whole.push(time);
        }
    }
    line("guest of five instructions: main to the third", first, "ms");
    line("the same: exec to exit (budget 6 ms)", whole, "ms");
    Ok(())
}
