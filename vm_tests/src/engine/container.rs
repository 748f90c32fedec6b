//! One container of an engine.

use super::{Engine, image};
use crate::command::{Command, Output};
use crate::wait::until;
use serde_json::Value;

/// A container, removed by force when this is dropped.
#[derive(Debug)]
pub struct Container<'engine> {
    engine: &'engine Engine,
    name: String,
}

impl<'engine> Container<'engine> {
    pub(super) fn start(engine: &'engine Engine, options: &[&str], program: &[&str]) -> Self {
        let container = Container { engine, name: engine.new_name() };
        let network: &[&str] =
            if options.iter().any(|option| option.starts_with("--net")) { &[] } else { &["--network=none"] };
        let run = engine.command(&["run", "--detach", "--name", &container.name]);
        run.args(network).args(options).arg(image::NAME).args(program).ok();
        container
    }

    /// One that was made in another way.
    pub fn named(engine: &'engine Engine, name: &str) -> Self {
        Container { engine, name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ENGINE words... NAME`.
    pub fn command(&self, words: &[&str]) -> Command {
        self.engine.command(words).arg(&self.name)
    }

    /// `ENGINE exec options... NAME program...`.
    pub fn exec(&self, options: &[&str], program: &[&str]) -> Command {
        self.engine.command(&["exec"]).args(options).arg(&self.name).args(program)
    }

    /// Runs a shell's script in it; expects exit code 0.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.exec(&[], &["sh", "-c", script]).ok()
    }

    /// What the engine knows of it.
    #[track_caller]
    pub fn inspect(&self, pointer: &str) -> Value {
        let text = self.command(&["inspect"]).ok();
        let all: Value = serde_json::from_str(&text).expect("inspect prints JSON");
        all[0].pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {text}")).clone()
    }

    /// Its output.
    pub fn logs(&self) -> Output {
        self.command(&["logs"]).run().expect(0)
    }

    /// Waits until its output has a text.
    #[track_caller]
    pub fn expect_log(&self, text: &str) {
        until(&format!("{text:?} in the logs"), || self.logs().text().contains(text).then_some(()));
    }

    /// Waits for its end; returns its exit code.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        self.command(&["wait"]).ok().parse().expect("an exit code")
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let remove = self.engine.command(&["rm", "--force", "--volumes"]).arg(&self.name);
        if std::thread::panicking() {
            // A second failure would hide the first.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| remove.patience(20).run()));
        } else {
            remove.run().expect(0);
        }
    }
}
