//! `cargo xtask lab -- COMMAND`: runs a command on a machine whose /dev/kvm works, wherever this is started.
//!
//! ```text
//!   KVM here works ──► direct.rs: the command, here
//!   it does not ─────► QEMU emulates a processor with virtualization
//!                        kernel.rs    what it boots; initramfs.rs, when that has modules
//!                        machine.rs   its command line; clock.rs, a part of it
//!                        session.rs   starts it, moves streams, keeps the time, ends it
//!                        wire.rs      the job and the report
//!                        init/        PID 1 in there: this program again
//! ```
//! Root of the lab is the host's, read-only below a writable layer in memory. Nothing of a lab is on the host's disks, and
//! its one process dies with this one.

mod clock;
mod direct;
mod environment;
pub mod init;
mod initramfs;
mod kernel;
mod machine;
mod selftest;
mod session;
mod sys;
mod tail;
mod wire;

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Exit code when the lab itself failed, as of `env` and `timeout`; the command's own pass through.
pub const FAILED: u8 = 125;

/// What `cargo xtask help lab` adds.
pub const HELP: &str = "\
Runs COMMAND as root on a machine with a real /dev/kvm and passes on its output, its input and its exit code. \
Where KVM works, that is this machine. Elsewhere it is one that QEMU emulates; it shows the file system of this one. \
What the command writes there is gone afterwards, except below a --share. It has a fresh /tmp and /run, and no network.

The emulated machine boots a kernel that is built once. Ours is up in 3 seconds and takes some minutes of compiling:
    clear-mini-os build --kernel source --profile lab-host
Debian's needs no compiler and is slower at every boot:
    clear-mini-os build --name lab-debian --manifest xtask/lab-debian.toml

Exit codes: the command's; 124 when the time is up; 125 when the lab failed; 126 and 127 when COMMAND cannot be started.";

/// What to run, and on what.
#[derive(clap::Args)]
pub struct Arguments {
    /// CPUs of the emulated machine; with more than one, a guest in there is lost now and then (docs/adr/0008-one-cpu-in-the-lab.md)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory of the emulated machine in MiB; with --sriov at most 2048
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Directory of this machine that the command may change, at the same path; may be given several times
    #[arg(long, value_name = "PATH")]
    share: Vec<PathBuf>,
    /// Give it an IOMMU and a network adapter with virtual functions (always emulated)
    #[arg(long)]
    sriov: bool,
    /// End everything after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Emulate a machine even where KVM works
    #[arg(long)]
    force: bool,
    /// Kernel to boot: a mini-OS by name, or the path of an ELF kernel [default: lab-host, or else lab-debian]
    #[arg(long, value_name = "NAME|PATH")]
    kernel: Option<String>,
    /// Show what the lab's kernel says
    #[arg(long)]
    console: bool,
    /// Check the lab itself
    #[arg(long, hide = true, conflicts_with = "command")]
    selftest: bool,
    /// Program and arguments
    #[arg(last = true, required_unless_present = "selftest", value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// CPUs and memory of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// How many.
    pub cpus: u32,
    /// In MiB.
    pub memory_mib: u32,
}

/// Runs the command and returns its exit code.
///
/// # Errors
/// Whatever kept the command from running to its end.
pub fn run(root: &Path, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.selftest {
        return selftest::run().map(|()| ExitCode::SUCCESS);
    }
    let time = Duration::from_secs(arguments.timeout);
    let emulate = arguments.force || arguments.sriov;
    if !emulate && host_check::kvm_probe::run(Path::new("/dev/kvm")).is_ok() {
        eprintln!("lab: KVM works here, so the command runs here (--force emulates a machine)");
        direct::adopt()?;
        let code = direct::run(&arguments.command, time);
        direct::sweep();
        return code.map(ExitCode::from);
    }
    if arguments.sriov && arguments.memory > machine::MAX_SRIOV_MIB {
        eprintln!("lab: with --sriov the machine has {} MiB of memory", machine::MAX_SRIOV_MIB);
    }
    let shares = shares(&arguments.share)?;
    let program = std::env::current_exe().context("finding this program, which is the lab's first")?;
    let kernel = kernel::find(arguments.kernel.as_deref())?;
    let archive = kernel.modules.as_deref().map(|modules| initramfs::make(modules, &program)).transpose()?;
    let machine = machine::Machine {
        size: Size { cpus: arguments.cpus, memory_mib: arguments.memory },
        kernel: kernel.image,
        init: program.clone(),
        tsc_khz: clock::tsc_khz(),
        shares: shares.clone(),
        sriov: arguments.sriov,
        owners: rustix::process::geteuid().is_root(),
    };
    let job = job(root, &program, &arguments.command, shares)?;
    session::run(&machine, archive, job, time, arguments.console).map(ExitCode::from)
}

/// The 9p tag and the absolute path of each share.
fn shares(paths: &[PathBuf]) -> Result<Vec<(String, PathBuf)>> {
    let mut shares = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let real = path.canonicalize().with_context(|| format!("--share {}", path.display()))?;
        if !real.is_dir() || real == Path::new("/") {
            bail!("--share {}: only a directory below / can be shared", path.display());
        }
        shares.push((format!("lab-share{number}"), real));
    }
    Ok(shares)
}

fn job(
    root: &Path,
    program: &Path,
    command: &[OsString],
    shares: Vec<(String, PathBuf)>,
) -> Result<wire::Job> {
    let directory = std::env::current_dir().context("finding the working directory")?;
    let variables = ["CARGO_TARGET_DIR", "CARGO_HOME", "RUSTUP_HOME", "CLEAR_MINI_OS_STORE"];
    let mut keep = vec![root.to_owned(), directory.clone()];
    keep.extend(variables.iter().filter_map(std::env::var_os).map(PathBuf::from));
    // The program named may lie where the lab has a fresh file system, and so may this one.
    let named = command.first().map(PathBuf::from).filter(|path| path.is_absolute());
    keep.extend(
        [Some(program.to_owned()), named]
            .into_iter()
            .flatten()
            .filter_map(|path| Some(path.parent()?.to_owned())),
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(wire::Job {
        arguments: command.iter().map(|word| word.as_encoded_bytes().to_vec()).collect(),
        environment: environment::filter(std::env::vars_os()),
        directory: directory.into_os_string().into_encoded_bytes(),
        keep: keep.into_iter().map(|path| path.into_os_string().into_encoded_bytes()).collect(),
        shares: shares
            .into_iter()
            .map(|(tag, path)| (tag, path.into_os_string().into_encoded_bytes()))
            .collect(),
        stdin: session::stdin_is_ours(),
        now: (now.as_secs() as i64, now.subsec_nanos()),
    })
}
