//! One GiB out of a container and into one, byte for byte.

use super::container::{Bench, succeed};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

const SIZE: u64 = 1 << 30;

/// SHA-256 of a GiB of zeros, and of nothing else.
const SCRIPT: &str = "head -c 1073741824 /dev/zero | sha256sum";

pub fn run(bench: &Bench, _: usize) -> Result<()> {
    let expected = succeed(Command::new("sh").args(["-c", SCRIPT]))?.stdout;
    let running = bench.sleeper("stdio")?;
    let begun = Instant::now();
    let mut out = bench
        .cor()
        .args(["exec", &running.id, "/bin/head", "-c", "1073741824", "/dev/zero"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut from = out.stdout.take().context("no pipe")?;
    let mut buffer = vec![0; 1 << 20];
    let mut count = 0u64;
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        if buffer[..got].iter().any(|byte| *byte != 0) {
            bail!("stdout: a byte came through changed");
        }
        count += got as u64;
    }
    out.wait()?;
    if count != SIZE {
        bail!("stdout: {count} of {SIZE} bytes came through");
    }
    report("stdout of 1 GiB", begun);
    let begun = Instant::now();
    let mut zeros = File::open("/dev/zero")?.take(SIZE);
    let mut into = bench
        .cor()
        .args(["exec", &running.id, "/bin/sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut to = into.stdin.take().context("no pipe")?;
    std::io::copy(&mut zeros, &mut to)?;
    drop(to);
    let sum = into.wait_with_output()?.stdout;
    if sum != expected {
        bail!("stdin: the checksum differs");
    }
    report("stdin of 1 GiB, with its checksum in the guest", begun);
    Ok(())
}

fn report(name: &str, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("{name:<44} {:>10.2} MiB/s ({seconds:.1} s, no loss)", SIZE as f64 / seconds / 1024.0 / 1024.0);
}
