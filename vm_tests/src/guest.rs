//! A Linux guest whose init is a shell: it does, line by line, what a test tells it on the serial console.
//!
//! ```text
//!   test ── `ls /sys` ─► standard input of the VMM ─► ttyS0 ─► init: eval
//!        ◄─ what it printed, `#3 0#` (third line, status 0) ◄──┘
//! ```

use crate::command::{Command, Output};
use crate::programs::Programs;
use crate::sandbox::Sandbox;
use crate::wait::until;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;

/// Kernel parameters of such a guest: nothing but what it is told to say comes on its console.
pub const PARAMETERS: &str = "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check random.trust_cpu=on";

const INIT: &str = r##"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mkdir -p /mnt
stty -echo
until_() { until eval "$1"; do usleep 10000; done; }
n=0
echo "#0 0#"
while read -r line; do n=$((n + 1)); eval "$line"; echo "#$n $?#"; done
"##;

/// Makes the guest's root file system; `programs` of the host, with their libraries, go into it as well.
///
/// # Panics
/// When it cannot be made.
pub fn initramfs(sandbox: &Sandbox, programs: &[&str]) -> PathBuf {
    let root = sandbox.path().join("guest-root");
    for directory in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("making a directory");
    }
    put("/bin/busybox", &root.join("bin/busybox"));
    for program in programs {
        let name = Path::new(program).file_name().expect("the name of a program");
        put(program, &root.join("bin").join(name));
        for line in Command::new("ldd").arg(program).ok().lines() {
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                put(library, &root.join(library.trim_start_matches('/')));
            }
        }
    }
    fs::write(root.join("init"), INIT).expect("writing init");
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).expect("setting a mode");
    let archive = sandbox.path().join("guest.cpio");
    let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
    Command::new("sh").args(["-c", pack]).arg(&archive).in_directory(&root).ok();
    archive
}

fn put(from: &str, to: &Path) {
    fs::create_dir_all(to.parent().expect("a parent")).expect("making directories");
    fs::copy(from, to).unwrap_or_else(|e| panic!("copying {from}: {e}"));
}

/// The kernel that tests boot.
///
/// # Panics
/// When its mini-OS has none.
pub fn kernel() -> PathBuf {
    kernel_of(&Programs::get().mini_os)
}

/// The kernel of the mini-OS of that name.
///
/// # Panics
/// When there is none.
pub fn kernel_of(mini_os: &str) -> PathBuf {
    let directory = Programs::get().mini_os_directory(mini_os);
    let manifest = fs::read(directory.join("manifest.json")).expect("reading the mini-OS' manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("the manifest is JSON");
    directory.join(manifest["kernel"]["path"].as_str().expect("the kernel's path"))
}

/// A guest that runs. Killed when dropped.
#[derive(Debug)]
pub struct Guest {
    vmm: crate::command::Running,
    input: ChildStdin,
    /// Bytes of its output that were looked at.
    seen: usize,
    lines: usize,
}

impl Guest {
    /// Starts a VMM whose standard input and output are the guest's console, and waits until the guest is ready.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn start(vmm: &Command) -> Self {
        let (vmm, input) = vmm.start_with_pipe();
        let mut guest = Guest { vmm, input, seen: 0, lines: 0 };
        guest.answer();
        guest
    }

    /// Pid of the VMM.
    pub fn pid(&self) -> u32 {
        self.vmm.pid()
    }

    /// Has the guest do `line`, a shell's; returns what it printed.
    ///
    /// # Panics
    /// When it fails in the guest, or the guest ends.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> String {
        let (status, text) = self.attempt(line);
        assert_eq!(status, 0, "status of `{line}` in the guest, which printed:\n{text}");
        text
    }

    /// Has the guest do `line`; returns its status and what it printed.
    ///
    /// # Panics
    /// When the guest ends or hangs.
    #[track_caller]
    pub fn attempt(&mut self, line: &str) -> (i32, String) {
        // A terminal's longest line (N_TTY_BUF_SIZE).
        assert!(line.len() < 4096 && !line.contains('\n'), "a line for a terminal: {line}");
        self.say(line);
        self.lines += 1;
        self.answer()
    }

    /// Has the guest do `line` without waiting for it.
    ///
    /// # Panics
    /// When the VMM has ended.
    pub fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).expect("writing to the guest's console");
    }

    /// Waits for the end of the line that was said last.
    #[track_caller]
    fn answer(&mut self) -> (i32, String) {
        let start = format!("#{} ", self.lines);
        let found = until("the guest to do what it was told", || {
            let output = self.vmm.output_so_far();
            let text = String::from_utf8_lossy(output.stdout.get(self.seen..)?).into_owned();
            let end = text.find(&start).and_then(|at| Some((at, text[at + start.len()..].find('#')?)));
            if let Some((at, length)) = end {
                let status = text[at + start.len()..][..length].parse().expect("a status");
                return Some(Ok((status, text[..at].to_string(), at + start.len() + length + 1)));
            }
            self.vmm.ended().map(|code| Err(format!("the VMM has ended with {code}: {output}")))
        });
        let (status, text, length) = found.unwrap_or_else(|ended| panic!("{ended}"));
        self.seen += length;
        (status, text.replace('\r', "").trim().to_string())
    }

    /// Has the guest reset its machine, and waits for the VMM's end.
    pub fn reboot(mut self) -> Output {
        self.say("reboot -f");
        self.wait()
    }

    /// Waits for the VMM's end.
    pub fn wait(self) -> Output {
        drop(self.input);
        self.vmm.wait()
    }

    /// Sends the VMM a signal.
    pub fn signal(&self, signal: i32) {
        self.vmm.signal(signal);
    }
}
