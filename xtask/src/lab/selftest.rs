//! Checks the lab itself, by starting it as a user does: `cargo xtask lab --selftest`.

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

/// How long a killed QEMU may take to be gone: it has gigabytes to give back.
const GONE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

type Check = fn(&Lab) -> Result<()>;

const CHECKS: [(&str, Check); 11] = [
    ("exit code, and streams apart", streams),
    ("programs that do not start", not_started),
    ("every byte in and out again", bytes),
    ("100 MiB of output", much_output),
    ("the host is seen and not changed, a share is", files),
    ("KVM runs guests in there", kvm),
    ("virtual functions behind an IOMMU", sriov),
    ("the time limit", time_limit),
    ("nothing is left after kill -9", killed),
    ("a machine that resets", reset),
    ("a kernel that is none", no_kernel),
];

/// Runs all checks.
///
/// # Errors
/// The first that fails.
pub fn run() -> Result<()> {
    let lab = Lab { program: std::env::current_exe().context("finding this program")? };
    for (name, check) in CHECKS {
        check(&lab).with_context(|| format!("the lab's check `{name}` failed"))?;
        println!("lab: {name}: ok");
    }
    Ok(())
}

struct Lab {
    program: PathBuf,
}

impl Lab {
    fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["lab", "--force"]).args(options).arg("--").args(words);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Result<Output> {
        self.command(options, words).output().context("starting the lab")
    }

    fn start(&self, words: &[&str]) -> Result<Child> {
        let mut command = self.command(&[], words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the lab")
    }
}

/// Checks an exit code; shows what was said when it is another.
fn expect(output: &Output, code: i32) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{} instead of {code}: {said}", output.status);
    Ok(())
}

fn streams(lab: &Lab) -> Result<()> {
    let script = "echo out; echo err >&2; pwd; sleep 1000 & exit 42";
    let output = lab.run(&[], &["sh", "-c", script])?;
    expect(&output, 42)?;
    let here = std::env::current_dir()?;
    ensure!(output.stdout == format!("out\n{}\n", here.display()).as_bytes(), "stdout: {:?}", output.stdout);
    ensure!(output.stderr == b"err\n", "stderr: {}", String::from_utf8_lossy(&output.stderr));
    expect(&lab.run(&[], &["sh", "-c", "kill -SEGV $$"])?, 128 + 11)
}

fn not_started(lab: &Lab) -> Result<()> {
    let missing = lab.run(&[], &["no-such-program"])?;
    expect(&missing, 127)?;
    ensure!(String::from_utf8_lossy(&missing.stderr).contains("no-such-program"), "the program is not named");
    expect(&lab.run(&[], &["/etc/passwd"])?, 126)
}

fn bytes(lab: &Lab) -> Result<()> {
    let mut sent = vec![0; 32 << 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut sent)?;
    let mut child = lab.start(&["cat"])?;
    let mut input = child.stdin.take().context("no pipe")?;
    let copy = sent.clone();
    let writer = thread::spawn(move || input.write_all(&copy));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writing thread died"))??;
    expect(&output, 0)?;
    ensure!(output.stdout == sent, "{} of {} bytes came back, or others", output.stdout.len(), sent.len());
    Ok(())
}

fn much_output(lab: &Lab) -> Result<()> {
    // Numbers: a byte that is lost, doubled or out of order shows.
    let words = ["seq", "1", "12900000"];
    let ours = Command::new(words[0]).args(&words[1..]).output().context("running seq")?.stdout;
    ensure!(ours.len() > 100 << 20, "seq wrote {} bytes only", ours.len());
    let output = lab.run(&[], &words)?;
    expect(&output, 0)?;
    ensure!(output.stdout == ours, "{} bytes instead of {}, or others", output.stdout.len(), ours.len());
    Ok(())
}

fn files(lab: &Lab) -> Result<()> {
    let (kept, shared) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::write(kept.path().join("seen"), "before\n")?;
    let share = shared.path().to_str().context("a path that is no text")?;
    let script =
        "cat seen && echo after > seen && echo new > new && cd \"$0\" && echo \"$CLEAR_LAB\" > written";
    let mut command = lab.command(&["--share", share], &["sh", "-c", script, share]);
    let output = command.current_dir(kept.path()).output()?;
    expect(&output, 0)?;
    ensure!(output.stdout == b"before\n", "a file of the working directory: {:?}", output.stdout);
    ensure!(
        fs::read_to_string(kept.path().join("seen"))? == "before\n",
        "the lab changed a file of the host"
    );
    ensure!(!kept.path().join("new").exists(), "the lab made a file on the host");
    ensure!(
        fs::read_to_string(shared.path().join("written"))? == "1\n",
        "a share does not show what was written"
    );
    Ok(())
}

fn kvm(lab: &Lab) -> Result<()> {
    let program = lab.program.to_str().context("a path that is no text")?;
    // In there the lab needs no machine: its own probe guest has run. Nor does it leave anything behind.
    let script = "\"$0\" lab -- sh -c 'sleep 1000 & exit 3'; code=$?; ! pgrep -x sleep || exit 4; exit $code";
    let output = lab.run(&[], &["sh", "-c", script, program])?;
    expect(&output, 3)?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("KVM works here"), "it emulated once more");
    let limit = lab.run(&[], &[program, "lab", "--timeout", "1", "--", "sh", "-c", "sleep 1000; true"])?;
    expect(&limit, 124)
}

fn sriov(lab: &Lab) -> Result<()> {
    // One virtual function of the adapter, its group, and VFIO's device for it.
    let script = "set -e; cd /sys/bus/pci/drivers/igb/0000:*; echo 1 >sriov_numvfs; cd virtfn0/
        name=$(basename \"$(readlink -f .)\"); test ! -e driver || echo $name >driver/unbind
        echo vfio-pci >driver_override; echo $name >/sys/bus/pci/drivers_probe
        test -c /dev/vfio/$(basename \"$(readlink iommu_group)\")";
    expect(&lab.run(&["--sriov"], &["sh", "-c", script])?, 0)
}

fn time_limit(lab: &Lab) -> Result<()> {
    let output = lab.run(&["--timeout", "8"], &["sleep", "1000"])?;
    expect(&output, 124)?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("within 8 s"), "it does not say why it ended");
    Ok(())
}

fn killed(lab: &Lab) -> Result<()> {
    let mut child = lab.start(&["sh", "-c", "echo up; sleep 1000"])?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
    ensure!(line == "up\n", "the lab said {line:?}");
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
    let process = children.trim().parse().ok().and_then(Pid::from_raw).context("one QEMU was expected")?;
    let process = pidfd_open(process, PidfdFlags::empty()).context("watching QEMU")?;
    child.kill()?;
    child.wait()?;
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&GONE))?;
    ensure!(ended == 1, "QEMU outlives the program that started it");
    Ok(())
}

fn reset(lab: &Lab) -> Result<()> {
    let output = lab.run(&[], &["sh", "-c", "echo b >/proc/sysrq-trigger; sleep 1000"])?;
    expect(&output, super::FAILED.into())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("ended before the command did"), "it does not say what happened: {said}");
    Ok(())
}

fn no_kernel(lab: &Lab) -> Result<()> {
    let output = lab.run(&["--kernel", "/etc/passwd"], &["true"])?;
    expect(&output, super::FAILED.into())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("invalid kernel header"), "QEMU's reason is not shown: {said}");
    let output = lab.run(&["--kernel", "no-such-kernel"], &["true"])?;
    expect(&output, super::FAILED.into())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("clear-mini-os build"), "the fix is not said: {said}");
    Ok(())
}
