//! A container of a test, through the runtime's commands.

use crate::bundle::Bundle;
use crate::command::{self, Output};
use crate::lab::Lab;
use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;

/// A container that `create` was called for.
#[derive(Debug)]
pub struct Container<'a> {
    lab: &'a Lab<'a>,
    /// Its ID.
    pub id: String,
    /// Name of the files that its streams go to.
    name: String,
}

impl<'a> Container<'a> {
    /// Calls `create`, with more words before the ID.
    pub fn create(lab: &'a Lab<'a>, bundle: &Bundle, id: &str, words: &[&str]) -> Result<(Output, Self)> {
        let name = format!("container{}", lab.number());
        let container = Self { lab, id: id.to_owned(), name };
        let mut line: Vec<OsString> = vec!["create".into(), "--bundle".into(), bundle.path().into()];
        line.extend(["--pid-file".into(), container.file("pid").into()]);
        line.extend(words.iter().map(OsString::from));
        line.push(id.into());
        let output = command::run(&mut lab.command(&line), lab.path(), &container.name)?;
        Ok((output, container))
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.lab.path().join(format!("{}.{kind}", self.name))
    }

    /// Calls a command with the ID behind it.
    pub fn call(&self, words: &[&str]) -> Result<Output> {
        let line: Vec<&str> = words.iter().copied().chain([self.id.as_str()]).collect();
        self.lab.call(&line)
    }

    /// Calls `start`.
    pub fn start(&self) -> Result<Output> {
        self.call(&["start"])
    }

    /// Calls `delete`.
    pub fn delete(&self) -> Result<Output> {
        self.call(&["delete"])
    }

    /// Calls `kill` with a signal.
    pub fn kill(&self, signal: &str) -> Result<Output> {
        self.lab.call(&["kill", &self.id, signal])
    }

    /// What `state` prints.
    pub fn state(&self) -> Result<Value> {
        let output = self.call(&["state"])?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("`state` is no JSON: {}", output.stdout))
    }

    /// Its status.
    pub fn status(&self) -> Result<String> {
        let state = self.state()?;
        Ok(state["status"].as_str().with_context(|| format!("no status in {state}"))?.to_owned())
    }

    /// Expects that `state` knows no such container.
    pub fn state_refused(&self) -> Result<()> {
        self.call(&["state"])?.refused().map(drop)
    }

    /// Process ID of its first process, as this host sees it.
    pub fn pid(&self) -> Result<i32> {
        let text = command::read(&self.file("pid"))?;
        text.trim().parse().with_context(|| format!("the pid file has {text:?}"))
    }

    /// Waits for the end of its program: exit code, 128 + number for a signal.
    pub fn wait(&self) -> Result<i32> {
        let pid = Pid::from_raw(self.pid()?).context("the pid file has 0")?;
        command::until("the end of the container's program", || {
            let ended =
                waitpid(Some(pid), WaitOptions::NOHANG).context("waiting for the container's program")?;
            Ok(ended.map(|(_, status)| {
                let signal = status.terminating_signal().map_or(0, |signal| 128 + signal);
                status.exit_status().unwrap_or(signal)
            }))
        })
    }

    /// Waits until a status is reached.
    pub fn wait_for(&self, status: &str) -> Result<()> {
        command::until(&format!("status {status}"), || Ok((self.status()? == status).then_some(())))
    }

    /// Waits until its output has this text.
    pub fn wait_for_output(&self, text: &str) -> Result<()> {
        command::until(&format!("output {text:?}"), || Ok(self.stdout()?.contains(text).then_some(())))
    }

    /// What its program has written to its standard output.
    pub fn stdout(&self) -> Result<String> {
        command::read(&self.file("out"))
    }

    /// What `create` and its program have written to standard error.
    pub fn stderr(&self) -> Result<String> {
        command::read(&self.file("err"))
    }
}

/// Takes the exit codes of processes that nobody waited for: they are this process's children, since it is a subreaper.
pub fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}
