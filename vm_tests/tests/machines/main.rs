//! Tests of `clear-vmm` with a Linux guest: hotplug in the jail, shares for QEMU, what `run` offers, memory that comes and goes.
//!
//! They need a KVM that runs a guest, and say so in one line where there is none. `cargo xtask ci --only lab` runs them in the lab.

mod hotplug;
mod memory;
mod run;
mod serve_fs;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use vm_tests::{Command, Sandbox};

/// A file of `mib` MiB of noise.
fn noise(sandbox: &Sandbox, name: &str, mib: u64) -> PathBuf {
    let mut bytes = Vec::new();
    let source = File::open("/dev/urandom").expect("opening /dev/urandom");
    source.take(mib << 20).read_to_end(&mut bytes).expect("reading noise");
    let path = sandbox.path().join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("making a directory");
    fs::write(&path, bytes).expect("writing a file");
    path
}

/// What md5sum(1) says of a file, as it does in a guest.
fn sum(path: &Path) -> String {
    Command::new("md5sum").arg(path).ok()[..32].to_string()
}

/// What a guest says.
fn sum_in_guest(path: &str) -> String {
    format!("md5sum < {path} | cut -c1-32")
}

/// A path as text.
fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
