//! A container that was created: what engines do with one.

use crate::bundle::Bundle;
use crate::command::{Command, Output, Running};
use crate::sandbox::Sandbox;
use crate::wait::until;
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::Value;
use std::path::PathBuf;

/// A container in a [`Sandbox`], deleted at the latest with it.
#[derive(Debug)]
pub struct Container<'a> {
    sandbox: &'a Sandbox,
    /// Its id.
    pub id: String,
    creator: Creator,
    bundle: PathBuf,
}

/// `cor create` has ended; its output files go on as the container's.
#[derive(Debug)]
struct Creator {
    running: std::cell::RefCell<Running>,
}

impl<'a> Container<'a> {
    /// `cor create` with more flags, as an engine does it: this process is the subreaper that the keeper falls to.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn create(sandbox: &'a Sandbox, bundle: &Bundle, flags: &[&str]) -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("becoming a subreaper");
        let id = sandbox.id();
        let mut running =
            sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).args(flags).arg(&id).start();
        let code = until("cor create", || running.ended());
        assert_eq!(code, 0, "cor create: {}", running.output_so_far());
        let creator = Creator { running: running.into() };
        Container { sandbox, id, creator, bundle: bundle.path().to_path_buf() }
    }

    /// Its bundle's directory.
    pub fn bundle(&self) -> PathBuf {
        self.bundle.clone()
    }

    /// A `cor` command with this container's id at its end.
    pub fn command(&self, args: &[&str]) -> Command {
        self.sandbox.cor(args).arg(&self.id)
    }

    /// `cor start`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn start(&self) {
        self.command(&["start"]).run().expect(0);
    }

    /// `cor exec` of a program.
    pub fn exec(&self, args: &[&str]) -> Command {
        self.exec_with(&[], args)
    }

    /// `cor exec` with flags.
    pub fn exec_with(&self, flags: &[&str], args: &[&str]) -> Command {
        self.sandbox.cor(&["exec"]).args(flags).arg(&self.id).args(args)
    }

    /// Runs a shell script in it, expects exit code 0, and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.exec(&["sh", "-c", script]).run().expect(0).text()
    }

    /// `cor kill`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.sandbox.cor(&["kill", &self.id, signal]).run().expect(0);
    }

    /// `cor state`.
    ///
    /// # Panics
    /// When that fails or is no JSON.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.command(&["state"]).ok()).expect("the state is JSON")
    }

    /// Its OCI status.
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap_or_default().to_string()
    }

    /// Its pid for engines: the keeper's.
    ///
    /// # Panics
    /// When the state has none.
    pub fn pid(&self) -> u32 {
        let pid = self.state()["pid"].as_u64().expect("a pid");
        assert_ne!(pid, 0, "the container has stopped");
        pid as u32
    }

    /// The pid of its virtual machine monitor.
    ///
    /// # Panics
    /// When there is none.
    pub fn vmm_pid(&self) -> u32 {
        let file = self.sandbox.root().join(&self.id).join("state.json");
        let state: Value =
            serde_json::from_slice(&std::fs::read(file).expect("reading the state")).expect("JSON");
        state["vmm_pid"].as_u64().expect("a VMM's pid") as u32
    }

    /// Waits until it has a status.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for(&self, status: &str) {
        until(&format!("status {status} of {}", self.id), || (self.status() == status).then_some(()));
    }

    /// Waits for the end of process `pid`, which has fallen to this one, as an engine does; returns its exit code.
    ///
    /// # Panics
    /// When that takes too long or it is not ours.
    #[track_caller]
    pub fn reap(pid: u32) -> i32 {
        let pid = Pid::from_raw(pid as i32).expect("a pid");
        until(&format!("the end of process {}", pid.as_raw_nonzero()), || {
            let status = waitpid(Some(pid), WaitOptions::NOHANG).expect("a child of this process");
            status.map(|(_, s)| s.exit_status().unwrap_or_else(|| 128 + s.terminating_signal().unwrap_or(0)))
        })
    }

    /// What it has written to standard output and standard error so far (that of `cor create` included).
    pub fn output(&self) -> Output {
        self.creator.running.borrow().output_so_far()
    }

    /// `cor delete`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn delete(&self) {
        self.command(&["delete"]).run().expect(0);
    }

    /// `cor delete --force`.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn delete_force(&self) {
        self.command(&["delete", "--force"]).run().expect(0);
    }
}
