//! `cor run` of `/bin/true` against the bare machine: the same QEMU command line, whose init only asks for a reset.

use super::container::{Bench, succeed, timed};
use super::line;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An init that asks for a reset as its only system call: reboot(2) with LINUX_REBOOT_CMD_RESTART.
const INIT: &str = r#"
void _start(void) {
    register long r10 __asm__("r10") = 0;
    __asm__ volatile("syscall" : : "a"(169L), "D"(0xfee1deadL), "S"(672274793L), "d"(0x1234567L), "r"(r10) : "rcx", "r11", "memory");
    for (;;) { }
}
"#;

pub fn run(bench: &Bench, rounds: usize) -> Result<()> {
    let (program, args) = bare(bench)?;
    let bundle = bench.bundle(&["/bin/true"])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut parts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut order = Vec::new();
    for round in 0..=rounds {
        let mut command = bench.cor();
        command.arg("run").arg("--bundle").arg(&bundle).arg("boot").stdin(Stdio::null());
        let a = timed(&mut command)?.as_secs_f64() * 1000.0;
        let b = timed(Command::new(&program).args(&args).stdin(Stdio::null()).stdout(Stdio::null()))?
            .as_secs_f64()
            * 1000.0;
        if round == 0 {
            continue; // fills the page cache for both
        }
        ours.push(a);
        theirs.push(b);
        let mut before = 0.0;
        order.clear();
        for (name, at) in bench.timeline("boot")? {
            order.push(name.clone());
            parts.entry(name).or_default().push((at - before) / 1000.0);
            before = at;
        }
    }
    let a = line("cor run true", ours, "ms");
    let b = line("same QEMU, same kernel, init that resets", theirs, "ms");
    println!("{:<44} {:>10.2} x", "ratio (budget 1.3)", a / b);
    println!("where it goes, step by step:");
    for name in order {
        if let Some(values) = parts.remove(&name) {
            line(&format!("  + {name}"), values, "ms");
        }
    }
    Ok(())
}

/// The command line of a running container's QEMU, without its donated descriptors, and with the bare init.
fn bare(bench: &Bench) -> Result<(PathBuf, Vec<String>)> {
    let initramfs = initramfs(bench.directory())?;
    let share = bench.directory().join("empty");
    fs::create_dir_all(&share)?;
    let running = bench.sleeper("bare")?;
    let state = bench.directory().join("state").join(&running.id).join("state.json");
    let state: Value = serde_json::from_slice(&fs::read(state)?)?;
    let pid = state["vmm_pid"].as_u64().context("the container has no VMM")?;
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let mut args: Vec<String> =
        line.split(|b| *b == 0).skip(1).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    args.pop();
    let mut initrd_is_next = false;
    for arg in &mut args {
        if std::mem::replace(&mut initrd_is_next, arg == "-initrd") {
            *arg = initramfs.display().to_string();
        } else if let Some(rest) = arg.strip_prefix("socket,id=") {
            let id = rest.split(',').next().unwrap_or(rest).to_string();
            *arg = format!("null,id={id}");
        } else if let Some(rest) = arg.strip_prefix("tap,id=") {
            let id = rest.split(',').next().unwrap_or(rest).to_string();
            *arg = format!("hubport,id={id},hubid=0");
        } else if arg.starts_with("local,id=") {
            let kept: Vec<&str> = arg.split(',').filter(|part| !part.starts_with("path=")).collect();
            *arg = format!("{},path={}", kept.join(","), share.display());
        }
    }
    if !args.iter().any(|a| a == "-initrd") {
        // The root is an image: boot the bare init from an initramfs before it would be mounted.
        args.extend(["-initrd".to_string(), initramfs.display().to_string()]);
    }
    Ok((program, args))
}

/// A cpio archive with that init.
pub fn initramfs(directory: &Path) -> Result<PathBuf> {
    initramfs_of(directory, INIT)
}

/// A cpio archive with a program in C, without a library, as its init.
pub fn initramfs_of(directory: &Path, init: &str) -> Result<PathBuf> {
    let root = directory.join("bare-root");
    fs::create_dir_all(&root)?;
    let source = directory.join("init.c");
    fs::write(&source, init)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-nostdlib", "-Os", "-o"]).arg(root.join("init")).arg(&source);
    succeed(&mut compiler)?;
    let archive = directory.join("bare.cpio");
    let mut cpio = Command::new("sh");
    cpio.args(["-c", "echo init | cpio --quiet -o -H newc >\"$0\""]).arg(&archive).current_dir(&root);
    succeed(&mut cpio)?;
    Ok(archive)
}
