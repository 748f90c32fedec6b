//! A machine of `clear-vmm`, as a user of its command line has it, with a control socket.

use crate::command::Command;
use crate::guest::{Guest, PARAMETERS, initramfs, kernel};
use crate::programs::Programs;
use crate::sandbox::Sandbox;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    /// What runs in it.
    pub guest: Guest,
    control: PathBuf,
}

impl Machine {
    /// Starts one of 256 MiB with `args` besides kernel, console and control socket, and waits until its guest is ready.
    pub fn start(sandbox: &Sandbox, args: &[&str]) -> Self {
        Self::start_with(sandbox, "", &[], args)
    }

    /// The same with kernel parameters, and programs of the host in the guest's `/bin`.
    pub fn start_with(sandbox: &Sandbox, parameters: &str, programs: &[&str], args: &[&str]) -> Self {
        let control = sandbox.path().join("control");
        let command = Self::command(sandbox, parameters, programs).arg("--control").arg(&control).args(args);
        Machine { guest: Guest::start(&command), control }
    }

    /// One of another kernel, with parameters of its own.
    pub fn start_kernel(sandbox: &Sandbox, kernel: &Path, parameters: &str, args: &[&str]) -> Self {
        let control = sandbox.path().join("control");
        let command = Self::command_of(sandbox, kernel, parameters, &[]);
        let command = command.arg("--control").arg(&control).args(args);
        Machine { guest: Guest::start(&command), control }
    }

    /// `clear-vmm run` with kernel, initramfs and console.
    pub fn command(sandbox: &Sandbox, parameters: &str, programs: &[&str]) -> Command {
        Self::command_of(sandbox, &kernel(), parameters, programs)
    }

    fn command_of(sandbox: &Sandbox, kernel: &Path, parameters: &str, programs: &[&str]) -> Command {
        let command = Command::new(Programs::get().clear_vmm()).args(["run", "--console", "stdio"]);
        let command = command.arg("--kernel").arg(kernel);
        let command = command.arg("--initramfs").arg(initramfs(sandbox, programs));
        command.args(["--cmdline", &format!("{PARAMETERS} {parameters}")])
    }

    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// `clear-vmm ctl` for it.
    pub fn ctl(&self, words: &[&str]) -> Command {
        ctl(&self.control, words)
    }

    /// What a command answers.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> Value {
        let words = [&["--json"], words].concat();
        serde_json::from_str(&self.ctl(&words).ok()).expect("an answer in JSON")
    }

    /// A device as `state` or `stats` tells of it.
    pub fn device(&self, command: &str, id: &str) -> Option<Value> {
        self.ask(&[command])["devices"].as_array()?.iter().find(|device| device["id"] == id).cloned()
    }

    /// How many devices of a kind may still come.
    pub fn room(&self, kind: &str) -> Option<u64> {
        self.ask(&["state"])["slots"][kind].as_u64()
    }

    /// Adds a device by a command of `ctl`, and has the guest look for it; returns its place there.
    #[track_caller]
    pub fn plug(&mut self, words: &[&str]) -> String {
        let place = self.ask(words)["pci"].as_str().expect("a place").to_string();
        self.guest.run(&format!("echo 1 > /sys/bus/pci/rescan; test -e /sys/bus/pci/devices/{place}"));
        place
    }

    /// Has the guest let go of a device, and takes it away; until then the machine refuses that.
    #[track_caller]
    pub fn unplug(&mut self, id: &str) {
        self.ctl(&["remove", id]).run().refused("the guest still uses it");
        self.let_go(id);
        self.ctl(&["remove", id]).ok();
        assert_eq!(self.device("state", id), None);
    }

    /// Has the guest let go of a device.
    #[track_caller]
    pub fn let_go(&mut self, id: &str) {
        let device = self.device("state", id).unwrap_or_else(|| panic!("no device {id}"));
        let place = device["pci"].as_str().expect("a place");
        self.guest.run(&format!("echo 1 > /sys/bus/pci/devices/{place}/remove"));
    }

    /// Has the guest reset the machine; the machine ends with exit code 0, and its control socket has no name any more.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn end(self) {
        let output = self.guest.reboot().expect(0);
        assert_eq!(output.errors(), "");
        assert!(!self.control.exists(), "{} is left", self.control.display());
    }
}

/// `clear-vmm ctl` at a socket.
pub fn ctl(socket: &Path, words: &[&str]) -> Command {
    Command::new(Programs::get().clear_vmm()).arg("ctl").arg("--socket").arg(socket).args(words)
}
