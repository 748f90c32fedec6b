//! The surroundings of one test.

use crate::bundle::Bundle;
use crate::command::{Command, Output};
use crate::container::Container;
use crate::leak::{Leaks, TAG};
use crate::programs::Programs;
use serde_json::Value;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// Variable that marks the processes of a test.
const MARK: &str = "CLEAR_TEST_TAG";

/// A private runtime root, configuration file and directory. Its end is the leak check.
#[derive(Debug)]
pub struct Sandbox {
    directory: TempDir,
    tag: String,
    leaks: Leaks,
    next: Cell<u32>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// Makes one.
    ///
    /// # Panics
    /// When this machine cannot run the tests, with the fix.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let programs = Programs::get();
        let tag = format!("{TAG}{}x{}x", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix(&tag).tempdir().expect("a temporary directory");
        let leaks = Leaks::watch(&tag, &directory.path().join("root"));
        let sandbox = Sandbox { directory, tag, leaks, next: Cell::new(0) };
        sandbox.configure(&format!("[mini_os]\nname = {:?}\n", programs.mini_os));
        sandbox
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The runtime root of its containers.
    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// What marks everything of this test.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Replaces the configuration file. Without `[mini_os]` the default one would be booted.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, text: &str) {
        self.configure_with(text, &Programs::get().machine);
    }

    /// The same for a mini-OS that not every board and root is for: they are left to `cor`, whatever this run asks for.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure_backend(&self, text: &str) {
        let machine = Programs::get().machine.iter().filter(|(key, _)| key == "backend").cloned();
        self.configure_with(text, &machine.collect::<Vec<_>>());
    }

    fn configure_with(&self, text: &str, machine: &[(String, String)]) {
        let text = with_machine(text, machine);
        fs::write(self.path().join("configuration.toml"), text).expect("writing the configuration");
    }

    /// Adds lines to the configuration file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure_more(&self, text: &str) {
        let old =
            fs::read_to_string(self.path().join("configuration.toml")).expect("reading the configuration");
        self.configure(&joined(&old, text));
    }

    /// A name that no other container on this host has.
    pub fn id(&self) -> String {
        self.next.set(self.next.get() + 1);
        format!("{}c{}", self.tag, self.next.get())
    }

    /// A new bundle.
    pub fn bundle(&self) -> Bundle {
        self.next.set(self.next.get() + 1);
        Bundle::new(&self.path().join(format!("bundle{}", self.next.get())))
    }

    /// `cor` with this sandbox's root and configuration.
    pub fn cor(&self, args: &[&str]) -> Command {
        let command = Command::new(Programs::get().cor()).env(MARK, &self.tag);
        command
            .arg("--root")
            .arg(self.root())
            .arg("--config")
            .arg(self.path().join("configuration.toml"))
            .args(args)
    }

    /// `cor run` of a bundle under a new name.
    pub fn run_command(&self, bundle: &Bundle) -> Command {
        self.cor(&["run", "--bundle"]).arg(bundle.path()).arg(self.id())
    }

    /// Runs a bundle to its end.
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.run_command(bundle).run()
    }

    /// Runs a shell script in a bundle of which `change` changes the configuration; expects exit code 0.
    pub fn script(&self, script: &str, change: impl FnOnce(&mut Value)) -> Output {
        let bundle = self.bundle();
        bundle.script(script).change(change);
        self.run(&bundle).expect(0)
    }

    /// Creates a container.
    ///
    /// # Panics
    /// When that fails.
    pub fn create(&self, bundle: &Bundle) -> Container<'_> {
        Container::create(self, bundle, &[])
    }

    /// Creates and starts a container.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(&self, bundle: &Bundle) -> Container<'_> {
        let container = self.create(bundle);
        container.start();
        container
    }

    /// Creates and starts a container that runs `sleep`.
    ///
    /// # Panics
    /// When that fails.
    pub fn sleeping(&self) -> Container<'_> {
        self.start(&self.bundle())
    }

    /// Expects that nothing of the containers is on the host, now.
    ///
    /// # Panics
    /// When there is.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let found = self.leaks.found();
        assert!(found.is_empty(), "left on the host:\n{}", found.join("\n"));
    }

    /// Expects that nothing is on the host but what the test has made itself and `known` names.
    ///
    /// # Panics
    /// When there is.
    #[track_caller]
    pub fn assert_nothing_left_but(&self, known: &[&str]) {
        let mut found = self.leaks.found();
        found.retain(|line| !known.iter().any(|name| line.ends_with(name)));
        assert!(found.is_empty(), "left on the host:\n{}", found.join("\n"));
    }

    /// Deletes every container and says what is left then.
    fn finish(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if id.starts_with('.') {
                continue;
            }
            let output = self.cor(&["delete", "--force", &id]).run();
            if output.code != 0 {
                failures.push(output.to_string());
            }
        }
        failures.extend(self.leaks.found());
        failures
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let left = self.finish().join("\n");
        if std::thread::panicking() {
            eprintln!("left on the host: {}", if left.is_empty() { "nothing" } else { &left });
        } else {
            assert!(left.is_empty(), "left on the host:\n{left}");
        }
    }
}

/// Two configurations as one; as they stand, one behind the other, when that is meant to be wrong.
fn joined(first: &str, second: &str) -> String {
    let (Ok(mut all), Ok(more)) = (first.parse::<toml::Table>(), second.parse::<toml::Table>()) else {
        return format!("{first}{second}");
    };
    for (name, section) in more {
        match (all.get_mut(&name).and_then(toml::Value::as_table_mut), section) {
            (Some(old), toml::Value::Table(new)) => old.extend(new),
            (_, section) => drop(all.insert(name, section)),
        }
    }
    all.to_string()
}

/// Adds `machine` to a configuration that can be read and does not have it; one that is meant to be wrong stays as it is.
fn with_machine(text: &str, machine: &[(String, String)]) -> String {
    let parsed: Result<toml::Table, _> = text.parse();
    match parsed {
        Ok(mut table) if !machine.is_empty() => {
            let section = table.entry("machine").or_insert_with(|| toml::Table::new().into());
            if let Some(section) = section.as_table_mut() {
                for (key, value) in machine {
                    section.entry(key).or_insert_with(|| value.as_str().into());
                }
            }
            table.to_string()
        }
        _ => text.to_owned(),
    }
}
