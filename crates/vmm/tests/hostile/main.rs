//! Guests that do what no driver would, on the real program with its jail: it outlives them, and ends when they say so.
//!
//! Each test runs `guest/` with one scenario on /dev/kvm; without one it says so and shows nothing.

mod build;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Lines that a run may write, its stamps and what devices say once or twice about a broken driver included.
const MOST_LINES: usize = 80;

/// The stamp of a guest that got to its end.
const DONE: &str = "clear-vmm: stamp 200: ";

/// A tap of the host, where this user may make one; gone when dropped.
struct Tap(String);

impl Tap {
    fn new(scenario: &str) -> Option<Self> {
        // At most 15 characters, as interfaces' names have.
        let name = format!("cct{}{scenario:.4}", std::process::id());
        let made =
            Command::new("ip").args(["tuntap", "add", "dev", &name, "mode", "tap", "vnet_hdr"]).output();
        made.is_ok_and(|output| output.status.success()).then_some(Tap(name))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).output();
    }
}

fn run(scenario: &str, extra: &[&str]) {
    if !Path::new("/dev/kvm").exists() {
        println!("no /dev/kvm: the guest `{scenario}` is left out");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let guest = build::guest(directory.path());
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("disk"), [7; 64 << 10]).unwrap();
    fs::File::create(path("image")).unwrap().set_len(2 << 20).unwrap();
    fs::create_dir(path("share")).unwrap();
    fs::write(path("share/file"), "text").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clear-vmm"));
    command.args(["run", "--stamps", "--memory", "64", "--rng", "--cmdline", scenario]);
    command.arg("--kernel").arg(guest).args(["--disk", &path("disk"), "--pmem", &path("image")]);
    command.args(["--share", &format!("{},tag=share,dax=2M", path("share")), "--vsock", &path("vsock")]);
    command.args(["--hvc", &path("hvc")]);
    let tap = Tap::new(scenario);
    match &tap {
        Some(tap) => drop(command.args(["--net", &format!("tap={},rx-pps=1000", tap.0)])),
        None => println!("no tap can be made: `{scenario}` has no network"),
    }
    let output = command.args(extra).stdin(Stdio::null()).output().unwrap();
    check(scenario, &output);
    assert_eq!(fs::metadata(path("disk")).unwrap().len(), 64 << 10, "a disk never grows");
    assert!(!Path::new(&path("vsock")).exists(), "its socket is left behind");
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
}

fn check(scenario: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{scenario}: {}: {text}", output.status);
    assert!(
        text.lines().any(|line| line.starts_with(DONE)),
        "{scenario}: the guest did not get to its end: {text}"
    );
    assert!(!text.contains("panicked") && text.lines().count() <= MOST_LINES, "{scenario}: {text}");
}

#[test]
fn every_port() {
    run("ports", &["--console", "none"]);
    run("ports", &["--console", "stdio"]);
}

#[test]
fn every_address_without_memory() {
    run("addresses", &["--console", "none", "--balloon"]);
}

#[test]
fn configuration_space() {
    run("configuration", &["--console", "none", "--balloon"]);
}

#[test]
fn bars_that_move_and_overlap() {
    run("bars", &["--console", "none", "--balloon"]);
}

#[test]
fn message_tables() {
    run("messages", &["--console", "none", "--balloon"]);
}

#[test]
fn registers_of_every_device() {
    run("registers", &["--console", "none", "--balloon"]);
}

/// Of all but the balloon, to which nonsense is the number of a page: it gives the guest's own program away.
#[test]
fn queues_of_every_device() {
    run("queues", &["--console", "none"]);
}

#[test]
fn doorbells_without_end() {
    run("storm", &["--console", "none"]);
}
