//! Bytes through a disk, an image in memory and a shared directory, against reading the same file here.

use super::Subject;
use crate::bench::container::{succeed, timed};
use crate::bench::line;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const MIB: u64 = 64;

/// Reads each, with nothing in the guest's cache, and says when it began and ended, in seconds.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t devtmpfs devtmpfs /dev
now() { cut -d ' ' -f 1 /proc/uptime; }
say() { name=$1; shift; sync; echo 3 > /proc/sys/vm/drop_caches; from=$(now); dd "$@" bs=1M 2>/dev/null; echo "$name: $from $(now)"; }
say disk if=/dev/vda of=/dev/null
say image if=/dev/pmem0 of=/dev/null
mount -t virtiofs share /mnt && { say share if=/mnt/data of=/dev/null
say share-write if=/dev/zero of=/mnt/written count=64 conv=fsync; umount /mnt; }
mount -t virtiofs -o dax=always share /mnt && say share-dax if=/mnt/data of=/dev/null
reboot -f
"#;

pub fn run(subject: &Subject<'_>) -> Result<()> {
    println!("throughput, {MIB} MiB each, read with an empty guest cache:");
    let directory = subject.bench.directory();
    let shared = directory.join("shared");
    fs::create_dir_all(&shared)?;
    let data = shared.join("data");
    fs::write(&data, vec![0x5a; (MIB << 20) as usize])?;
    let initramfs = initramfs(directory, INIT)?;
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..subject.rounds.min(5) {
        let mut own = Command::new("busybox");
        own.args(["dd", "of=/dev/null", "bs=1M"]).arg(format!("if={}", data.display()));
        let time = timed(own.stderr(Stdio::null()))?;
        values.entry("host".into()).or_default().push(MIB as f64 / time.as_secs_f64());
        let mut command = subject.clear_vmm(&initramfs, "console=ttyS0");
        command.args(["--console", "stdio", "--disk"]).arg(format!("{},ro", data.display()));
        command.arg("--pmem").arg(format!("{},ro", data.display()));
        command.arg("--share").arg(format!("{},tag=share,dax={MIB}M", shared.display()));
        let output = succeed(&mut command)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let before = values.values().map(Vec::len).sum::<usize>();
        said.lines().for_each(|line| take(&mut values, line));
        if values.values().map(Vec::len).sum::<usize>() < before + 4 {
            bail!("the guest did not measure: {said}");
        }
    }
    for (name, what) in [
        ("host", "the host's own read"),
        ("disk", "disk"),
        ("image", "image (pmem)"),
        ("share", "shared directory"),
        ("share-dax", "shared directory, DAX"),
        ("share-write", "shared directory, write and fsync"),
    ] {
        match values.remove(name) {
            Some(values) => drop(line(what, values, "MiB/s")),
            None => println!("{what:<44} not in this kernel"),
        }
    }
    standard_output(subject)
}

/// A container's standard output, over vsock.
fn standard_output(subject: &Subject<'_>) -> Result<()> {
    let bundle = subject.bench.bundle(&["/bin/dd", "if=/dev/zero", "bs=64k", "count=1024"])?;
    let mut values = Vec::new();
    for _ in 0..subject.rounds.min(3) {
        let mut command = subject.bench.cor();
        command.arg("run").arg("--bundle").arg(&bundle).arg("output").stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting cor")?;
        let mut output = child.stdout.take().context("no pipe")?;
        let mut first = [0];
        std::io::Read::read_exact(&mut output, &mut first).context("a container without output")?;
        let begun = Instant::now();
        let bytes = std::io::copy(&mut output, &mut std::io::sink())?;
        values.push(bytes as f64 / (1 << 20) as f64 / begun.elapsed().as_secs_f64());
        let status = child.wait()?;
        if !status.success() || bytes + 1 != MIB << 20 {
            let why = subject.bench.cor().args(["why", "output"]).output()?;
            let why = String::from_utf8_lossy(&why.stdout).trim().to_string();
            bail!("a container's output of {MIB} MiB came as {} bytes ({status}): {why}", bytes + 1);
        }
    }
    line("a container's standard output", values, "MiB/s");
    Ok(())
}

/// Takes `NAME: BEGIN END`, in seconds.
fn take(values: &mut BTreeMap<String, Vec<f64>>, text: &str) {
    let Some((name, times)) = text.split_once(": ") else { return };
    let times: Vec<f64> = times.split_whitespace().filter_map(|time| time.parse().ok()).collect();
    if let [begin, end] = times[..] {
        // The guest's clock shows hundredths.
        values.entry(name.to_string()).or_default().push(MIB as f64 / (end - begin).max(0.01));
    }
}

/// An archive with busybox and `init`, a script.
pub fn initramfs(directory: &Path, init: &str) -> Result<PathBuf> {
    let root = directory.join("throughput-root");
    for name in ["bin", "proc", "dev", "mnt"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    fs::write(root.join("init"), init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let archive = directory.join("throughput.cpio");
    let mut cpio = Command::new("sh");
    cpio.args(["-c", "find . | cpio --quiet -o -H newc >\"$0\""]).arg(&archive).current_dir(&root);
    succeed(&mut cpio)?;
    Ok(archive)
}
