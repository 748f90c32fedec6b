//! exec of the VMM, the guest's init, exit of the VMM: clear-vmm and QEMU microvm in turn.

use super::{MEMORY_MIB, Subject, parameters};
use crate::bench::container::timed;
use crate::bench::{boot, line, resources};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};

/// What can be asked of guest memory.
const MEMORY_OPTIONS: [&str; 3] = ["--mergeable", "--hugepages", "--prefault"];

pub fn run(subject: &Subject<'_>) -> Result<()> {
    println!("boot to an init that resets, {MEMORY_MIB} MiB, 1 vCPU:");
    let initramfs = boot::initramfs(subject.bench.directory())?;
    let (mut ours, mut theirs, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let mut options = MEMORY_OPTIONS.map(|option| (option, Vec::new()));
    for round in 0..=subject.rounds {
        let (a, fault) = resources::timed(&mut subject.clear_vmm(&initramfs, ""))?;
        let b = timed(&mut microvm(subject, &initramfs))?;
        if round > 0 {
            ours.push(a.as_secs_f64() * 1000.0);
            theirs.push(b.as_secs_f64() * 1000.0);
            faults.push(fault as f64);
            for (option, times) in &mut options {
                let time = timed(subject.clear_vmm(&initramfs, "").arg(*option))?;
                times.push(time.as_secs_f64() * 1000.0);
            }
        }
    }
    let a = line("clear-vmm", ours, "ms");
    let b = line("QEMU microvm", theirs, "ms");
    println!("{:<44} {:>10.2} x", "ratio (budget 0.5)", a / b);
    line("clear-vmm: page faults of the process", faults, "");
    for (option, times) in options {
        line(&format!("clear-vmm {option}"), times, "ms");
    }
    let output = subject.clear_vmm(&initramfs, "").arg("--count-exits").output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let exits = text.lines().find_map(|line| line.strip_prefix("clear-vmm: ")?.strip_suffix(" exits"));
    println!("{:<44} {:>10}", "clear-vmm: exits to the process", exits.context("no exits were counted")?);
    Ok(())
}

/// The leanest that QEMU has for this kernel.
fn microvm(subject: &Subject<'_>, initramfs: &Path) -> Command {
    let mut command = Command::new(format!("qemu-system-{}", std::env::consts::ARCH));
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-smp", "1"]);
    command.args([
        "-machine",
        "microvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off",
        "-accel",
        "kvm",
        "-cpu",
        "host",
    ]);
    command.args(["-m", &format!("{MEMORY_MIB}M"), "-append", &parameters("reboot=t"), "-kernel"]);
    command.arg(&subject.kernel).arg("-initrd").arg(initramfs).stdin(Stdio::null()).stdout(Stdio::null());
    command
}
