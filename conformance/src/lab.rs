//! The runtime, and the surroundings of one test.

use crate::bundle::Bundle;
use crate::command::{self, Output};
use crate::container::Container;
use anyhow::{Context, Result, bail};
use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The program under test.
#[derive(Debug)]
pub struct Runtime {
    program: PathBuf,
    global: Vec<String>,
}

impl Runtime {
    /// Finds it.
    ///
    /// # Errors
    /// There is no such program.
    pub fn new(program: &Path, global: &[String]) -> Result<Self> {
        let found = if program.components().count() > 1 {
            program.canonicalize().ok()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
        };
        let program = found.with_context(|| format!("there is no runtime {}", program.display()))?;
        Ok(Self { program, global: global.to_vec() })
    }

    /// Its file's name.
    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A private `--root` and directory of one test.
#[derive(Debug)]
pub struct Lab<'a> {
    runtime: &'a Runtime,
    directory: TempDir,
    ids: RefCell<Vec<String>>,
    next: Cell<u32>,
}

impl<'a> Lab<'a> {
    /// Makes one.
    ///
    /// # Errors
    /// No temporary directory.
    pub fn new(runtime: &'a Runtime) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("conformance-").tempdir()?;
        // Users of containers walk through it.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { runtime, directory, ids: RefCell::default(), next: Cell::new(0) })
    }

    /// The test's directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The runtime's directory of states.
    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// A number that this test has not used.
    pub fn number(&self) -> u32 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// A container ID that nobody else on this host uses; the container is deleted at the test's end.
    pub fn id(&self) -> String {
        let test = self.path().file_name().unwrap_or_default().to_string_lossy().replace('.', "");
        let id = format!("{test}-{}", self.number());
        self.ids.borrow_mut().push(id.clone());
        id
    }

    /// A new bundle.
    pub fn bundle(&self) -> Result<Bundle> {
        Bundle::new(&self.path().join(format!("bundle{}", self.number())))
    }

    /// A command of the runtime that was not started.
    pub fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.runtime.program);
        command.args(&self.runtime.global).arg("--root").arg(self.root()).args(words);
        command
    }

    /// Runs a command of the runtime to its end.
    pub fn call(&self, words: &[impl AsRef<OsStr>]) -> Result<Output> {
        let name = format!("command{}", self.number());
        command::run(&mut self.command(words), self.path(), &name)
    }

    /// Creates a container; a failure is an error.
    pub fn create(&self, bundle: &Bundle) -> Result<Container<'_>> {
        let (output, container) = Container::create(self, bundle, &self.id(), &[])?;
        output.ok()?;
        Ok(container)
    }

    /// Expects that creating a container fails and that nothing is left of it; gives what `create` said.
    pub fn create_refused(&self, bundle: &Bundle) -> Result<Output> {
        let id = self.id();
        let (output, container) = Container::create(self, bundle, &id, &[])?;
        let output = output.refused()?;
        container.state_refused().context("after a create that failed")?;
        Ok(output)
    }

    /// Creates and starts a container.
    pub fn start(&self, bundle: &Bundle) -> Result<Container<'_>> {
        let container = self.create(bundle)?;
        container.start()?.ok()?;
        Ok(container)
    }

    /// Runs a bundle to its end and deletes the container: exit code and outputs of its program.
    pub fn run(&self, bundle: &Bundle) -> Result<Output> {
        let container = self.start(bundle)?;
        let code = container.wait()?;
        let output = Output {
            line: "the program in the container".into(),
            code,
            stdout: container.stdout()?,
            stderr: container.stderr()?,
        };
        container.delete()?.ok()?;
        Ok(output)
    }

    /// Runs a shell script, which must succeed, in a bundle that `change` changes; gives what it printed, without blanks at the ends.
    pub fn script(&self, script: &str, change: impl FnOnce(&mut Bundle) -> Result<()>) -> Result<String> {
        let mut bundle = self.bundle()?;
        bundle.script(script);
        change(&mut bundle)?;
        Ok(self.run(&bundle)?.ok()?.stdout.trim().to_owned())
    }

    /// Deletes what the test has left.
    ///
    /// # Errors
    /// A container cannot be deleted.
    pub fn clean_up(self) -> Result<()> {
        self.delete_all()
    }

    fn delete_all(&self) -> Result<()> {
        for id in self.ids.take() {
            let deleted = self.call(&["delete", "--force", &id])?;
            // Runtimes differ in whether a container that is not there is an error here.
            if deleted.code != 0 && self.call(&["state", &id])?.code == 0 {
                bail!("cleaning up: {}", deleted.message());
            }
            crate::container::reap();
        }
        Ok(())
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.delete_all() {
            eprintln!("conformance: {error:#}");
        }
    }
}
