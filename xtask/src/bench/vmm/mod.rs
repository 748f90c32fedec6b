//! clear-vmm against QEMU on the same KVM, with the same kernel: where KVM works, which may be the lab.
//!
//! ```text
//!   tiny.rs        here: a guest of five instructions
//!   in the lab:
//!     boot.rs        exec ─► init ─► exit, A and B in turn; exits and page faults
//!     memory.rs      what the process has besides guest memory
//!     throughput.rs  disk, image and directory, against the host's own
//!     network.rs     a TCP stream each way, against the host's own
//!     runtimes.rs    `cor run true` against `crun run true`
//! ```

mod boot;
mod memory;
mod network;
mod runtimes;
mod throughput;
mod tiny;

use super::Arguments;
use super::container::Bench;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// MiB of every machine here.
const MEMORY_MIB: u64 = 256;

/// Set in the lab, where measuring goes on instead of starting another one.
const INSIDE: &str = "CLEAR_LAB";

/// What is measured.
struct Subject<'a> {
    bench: &'a Bench,
    program: PathBuf,
    kernel: PathBuf,
    image: PathBuf,
    rounds: usize,
}

pub fn run(root: &Path, bench: &Bench, programs: &Path, arguments: &Arguments) -> Result<()> {
    let program = programs.join("clear-vmm");
    let inside = std::env::var_os(INSIDE).is_some();
    if !inside {
        tiny::run(bench, &program, arguments.rounds)?;
    }
    if !inside && host_check::kvm_probe::run(Path::new("/dev/kvm")).is_err() {
        return in_lab(root, programs, arguments);
    }
    let (kernel, image) = files(&arguments.mini_os)?;
    let subject = Subject { bench, program, kernel, image, rounds: arguments.rounds.max(1) };
    boot::run(&subject)?;
    memory::run(&subject)?;
    throughput::run(&subject)?;
    network::run(&subject)?;
    runtimes::run(&subject)
}

/// The same again, on a machine whose KVM works.
fn in_lab(root: &Path, programs: &Path, arguments: &Arguments) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    println!("KVM does not work here: what follows was measured in the lab, where only ratios mean anything");
    let mut command = Command::new(&program);
    command.args(["lab", "--memory", "4096", "--"]).arg(&program).args(["bench", "--only", "vmm"]);
    command.args(["--rounds", &arguments.rounds.to_string(), "--mini-os", &arguments.mini_os]);
    command.arg("--programs").arg(programs.canonicalize()?).current_dir(root).stdin(Stdio::null());
    let status = command.status().context("starting the lab")?;
    if !status.success() {
        bail!("the measurements in the lab: {status}");
    }
    Ok(())
}

/// Kernel and image of a mini-OS.
fn files(mini_os: &str) -> Result<(PathBuf, PathBuf)> {
    let store = std::env::var_os("CLEAR_MINI_OS_STORE")
        .map_or_else(|| PathBuf::from("/var/lib/clear-containers/mini-os"), PathBuf::from);
    let object = store.join("refs").join(mini_os);
    let manifest = object.join("manifest.json");
    let text = fs::read(&manifest).with_context(|| format!("reading {}: build it", manifest.display()))?;
    let manifest: Value = serde_json::from_slice(&text)?;
    let file = |name: &str| -> Result<PathBuf> {
        let file =
            manifest[name]["path"].as_str().with_context(|| format!("mini-OS {mini_os} has no {name}"))?;
        Ok(object.join(file))
    };
    Ok((file("kernel")?, file("image")?))
}

impl Subject<'_> {
    /// clear-vmm with this initramfs and what else is asked for.
    fn clear_vmm(&self, initramfs: &Path, cmdline: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--kernel").arg(&self.kernel).arg("--initramfs").arg(initramfs);
        command.args(["--memory", &format!("{MEMORY_MIB}M")]).args(["--cmdline", &parameters(cmdline)]);
        command.stdin(Stdio::null());
        command
    }
}

/// The parameters that `cor` gives on KVM.
fn parameters(more: &str) -> String {
    format!(
        "quiet panic=-1 tsc=reliable no_timer_check random.trust_cpu=on rcupdate.rcu_expedited=1 cryptomgr.notests noreplace-smp {more}"
    )
}
