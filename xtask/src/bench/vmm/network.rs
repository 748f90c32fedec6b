//! One TCP stream each way between a guest and its host, against the host's own loopback.

use super::{Subject, throughput};
use crate::bench::container::succeed;
use crate::bench::line;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 64;

/// Name of the tap, and the host's address on it.
const TAP: &str = "clearbench0";
const HOST: &str = "192.0.2.1";

/// Longest time that a guest may take to connect.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends, then receives until the end, and says so by closing. dd(1) has the socket itself: nc(1) would copy KiB by KiB.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t devtmpfs devtmpfs /dev
ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0
nc 192.0.2.1 7001 -e dd if=/dev/zero bs=64k count=1024
nc 192.0.2.1 7002 -e dd of=/dev/null bs=64k
reboot -f
"#;

/// A tap; gone when dropped.
pub struct Tap;

impl Tap {
    /// Makes it, down and without an address.
    pub fn new() -> Result<Self> {
        succeed(Command::new("ip").args(["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"]))
            .context("making a tap")?;
        Ok(Tap)
    }

    /// The option of `clear-vmm run` for it.
    pub fn option(&self) -> String {
        format!("tap={TAP}")
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", TAP]).output();
    }
}

/// The guest goes with this.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(subject: &Subject<'_>) -> Result<()> {
    println!("one TCP stream, {MIB} MiB:");
    let tap = Tap::new()?;
    succeed(Command::new("ip").args(["addr", "add", &format!("{HOST}/24"), "dev", TAP]))?;
    succeed(Command::new("ip").args(["link", "set", TAP, "up"]))?;
    let initramfs = throughput::initramfs(subject.bench.directory(), INIT)?;
    let (mut own, mut sent, mut received) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..subject.rounds.min(5) {
        own.push(loopback()?);
        let (from_guest, to_guest) = (TcpListener::bind((HOST, 7001))?, TcpListener::bind((HOST, 7002))?);
        let mut command = subject.clear_vmm(&initramfs, "");
        command.args(["--net", &tap.option()]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut guest = Guest(command.spawn().context("starting clear-vmm")?);
        sent.push(drain(accept(&from_guest, &mut guest)?)?);
        received.push(fill(accept(&to_guest, &mut guest)?)?);
        guest.0.wait()?;
    }
    line("the host's own loopback", own, "MiB/s");
    line("from the guest", sent, "MiB/s");
    line("to the guest", received, "MiB/s");
    Ok(())
}

/// Waits for the guest to connect, as long as there is one.
fn accept(listener: &TcpListener, guest: &mut Guest) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) => {}
        }
        if begun.elapsed() > PATIENCE || guest.0.try_wait()?.is_some() {
            bail!("the guest did not connect");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads to the end; MiB per second from the first byte on.
fn drain(mut stream: TcpStream) -> Result<f64> {
    stream.read_exact(&mut [0])?;
    let begun = Instant::now();
    let bytes = std::io::copy(&mut stream, &mut std::io::sink())? + 1;
    speed(bytes, begun)
}

/// Writes everything; MiB per second until the other side has read it all and closed.
fn fill(mut stream: TcpStream) -> Result<f64> {
    let piece = vec![0x5a; 64 << 10];
    let begun = Instant::now();
    let pieces = (MIB << 20) / piece.len() as u64;
    for _ in 0..pieces {
        stream.write_all(&piece)?;
    }
    stream.shutdown(Shutdown::Write)?;
    std::io::copy(&mut stream, &mut std::io::sink())?;
    speed(pieces * piece.len() as u64, begun)
}

fn speed(bytes: u64, begun: Instant) -> Result<f64> {
    if bytes != MIB << 20 {
        bail!("{bytes} bytes of {MIB} MiB arrived");
    }
    Ok(MIB as f64 / begun.elapsed().as_secs_f64())
}

/// The same without a machine.
fn loopback() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || fill(TcpStream::connect(address)?));
    let speed = drain(listener.accept()?.0)?;
    match sender.join() {
        Ok(sent) => sent.map(|_| speed),
        Err(_) => bail!("the sender of the loopback panicked"),
    }
}
