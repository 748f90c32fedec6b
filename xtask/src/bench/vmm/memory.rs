//! Private memory of a clear-vmm with one of each device, besides what the guest's RAM takes.

use super::network::Tap;
use super::{MEMORY_MIB, Subject, throughput};
use crate::bench::{boot, line};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const MIB: f64 = 1024.0 * 1024.0;

/// Where the kernel's first segment lies in guest memory (`CONFIG_PHYSICAL_START`).
const KERNEL_AT: u64 = 16 << 20;

/// An init that waits for ever: pause(2).
const IDLE: &str = r#"
void _start(void) {
    for (;;)
        __asm__ volatile("syscall" : : "a"(34L) : "rcx", "r11", "memory");
}
"#;

/// Fills memory, and frees it when it gets a line; says when it has.
const FILL: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs devtmpfs /dev; mount -t tmpfs -o size=128m full /mnt
echo idle; read -r line
dd if=/dev/zero of=/mnt/file bs=1M count=100 2> /dev/null
echo full; read -r line
umount /mnt
echo freed; read -r line
"#;

/// The machine goes with this.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(subject: &Subject<'_>) -> Result<()> {
    println!("memory of clear-vmm, 1 vCPU, {MEMORY_MIB} MiB, with pmem, share, vsock and net:");
    let directory = subject.bench.directory();
    let initramfs = boot::initramfs_of(directory, IDLE)?;
    let tap = Tap::new()?;
    let (mut private, mut ram) = (Vec::new(), Vec::new());
    for _ in 0..subject.rounds.min(3) {
        let socket = directory.join("vsock");
        let _ = fs::remove_file(&socket);
        let mut command = subject.clear_vmm(&initramfs, "");
        command.arg("--pmem").arg(format!("{},ro", subject.image.display()));
        command.arg("--share").arg(format!("{},tag=t", directory.display())).arg("--vsock").arg(&socket);
        command.args(["--net", &tap.option()]).stdout(Stdio::null()).stderr(Stdio::null());
        let machine = Machine(command.spawn().context("starting clear-vmm")?);
        settle(machine.0.id())?;
        let (besides, guest) = measure(machine.0.id(), &subject.kernel)?;
        private.push(besides);
        ram.push(guest);
    }
    line("private, guest RAM left out (budget 3 MiB)", private, "MiB");
    line("of the guest's RAM in use", ram, "MiB");
    freed(subject)
}

/// What the process has before the guest takes 100 MiB, with them, and after it has freed them.
fn freed(subject: &Subject<'_>) -> Result<()> {
    let initramfs = throughput::initramfs(subject.bench.directory(), FILL)?;
    let mut command = subject.clear_vmm(&initramfs, "console=ttyS0");
    command.args(["--console", "stdio", "--balloon"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut machine = Machine(command.stderr(Stdio::null()).spawn().context("starting clear-vmm")?);
    let mut input = machine.0.stdin.take().context("no pipe")?;
    let mut output = BufReader::new(machine.0.stdout.take().context("no pipe")?).lines();
    for word in ["idle", "full", "freed"] {
        let said = output.by_ref().map_while(Result::ok).any(|line| line.trim() == word);
        if !said {
            bail!("the guest did not come to be {word}");
        }
        settle(machine.0.id())?;
        let kib = rest(machine.0.id())?;
        line(&format!("resident with --balloon, guest {word}"), vec![kib as f64 / 1024.0], "MiB");
        writeln!(input)?;
    }
    Ok(())
}

/// How often the resident memory is looked at, and how often in a row it must be the same: a guest reports a part of its free pages every two
/// seconds (PAGE_REPORTING_DELAY of Linux `mm/page_reporting.c`).
const REPORT: Duration = Duration::from_secs(3);
const SAME: usize = 3;

/// Resident KiB of a process, once it changes no more.
fn rest(pid: u32) -> Result<u64> {
    let (mut before, mut same) = (0, 0);
    let begun = Instant::now();
    while same < SAME && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(REPORT);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let now = resident.trim().trim_end_matches(" kB").parse()?;
        same = if now == before { same + 1 } else { 0 };
        before = now;
    }
    Ok(before)
}

/// Waits until the guest idles: its processes use no more CPU time.
fn settle(pid: u32) -> Result<()> {
    let (mut before, mut quiet) = (String::new(), 0);
    let begun = Instant::now();
    while quiet < 3 {
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("the guest did not come to rest within a minute");
        }
        std::thread::sleep(Duration::from_millis(300));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("clear-vmm has ended")?;
        let times: Vec<&str> =
            stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2).collect();
        let now = times.join(" ");
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// Private memory in MiB: of everything but the guest's RAM, and of that. The RAM is found by the kernel in it.
fn measure(pid: u32, kernel: &Path) -> Result<(f64, f64)> {
    let kernel = kernel.canonicalize()?;
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut mappings: Vec<(u64, bool, u64)> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or("");
        if let Some((start, _)) = first.split_once('-') {
            let start = u64::from_str_radix(start, 16)?;
            mappings.push((start, line.ends_with(&kernel.display().to_string()), 0));
        } else if let ("Private_Clean:" | "Private_Dirty:", Some(mapping)) = (first, mappings.last_mut()) {
            mapping.2 += words.next().unwrap_or("0").parse::<u64>()? * 1024;
        }
    }
    let kernel_at = mappings.iter().find(|(_, is_kernel, _)| *is_kernel).map(|(start, _, _)| *start);
    let ram = kernel_at.context("the kernel is not mapped")? - KERNEL_AT;
    let inside = |start: u64| (ram..ram + (MEMORY_MIB << 20)).contains(&start);
    let sum = |of_guest: bool| {
        let chosen = mappings.iter().filter(|(start, _, _)| inside(*start) == of_guest);
        chosen.map(|(_, _, bytes)| *bytes).sum::<u64>() as f64 / MIB
    };
    Ok((sum(false), sum(true)))
}
