//! Containers for measurements: a bundle with busybox, private state, and their removal.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Programs, a root file system, and a runtime root of its own.
pub struct Bench {
    cor: PathBuf,
    directory: tempfile::TempDir,
    configuration: PathBuf,
}

impl Bench {
    /// Prepares everything; the programs and the mini-OS must have been built.
    pub fn new(programs: &Path, mini_os: &str) -> Result<Self> {
        let cor = programs.join("cor");
        if !cor.exists() {
            bail!("{} is missing: run `make build`", cor.display());
        }
        let directory = tempfile::tempdir()?;
        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox"))
            .context("busybox-static: run `scripts/install-deps test`")?;
        for name in ["sh", "true", "cat", "dd", "sleep", "sha256sum", "head"] {
            symlink("busybox", rootfs.join("bin").join(name))?;
        }
        let configuration = directory.path().join("configuration.toml");
        fs::write(&configuration, format!("[mini_os]\nname = \"{mini_os}\"\n"))?;
        Ok(Bench { cor, directory, configuration })
    }

    /// A directory for files of measurements.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `cor` with this bench's root.
    pub fn cor(&self) -> Command {
        let mut command = Command::new(&self.cor);
        command.arg("--root").arg(self.directory.path().join("state"));
        command.arg("--config").arg(&self.configuration);
        command.arg("--log").arg(self.directory.path().join("log"));
        command
    }

    /// Writes a bundle that runs `args`; returns its directory.
    pub fn bundle(&self, args: &[&str]) -> Result<PathBuf> {
        let bundle = self.directory.path().join("bundle");
        fs::create_dir_all(&bundle)?;
        let config = bundle.join("config.json");
        let _ = fs::remove_file(&config);
        succeed(self.cor().arg("spec").arg("--bundle").arg(&bundle))?;
        let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
        spec["root"]["path"] = json!(self.directory.path().join("rootfs"));
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(args);
        fs::write(&config, serde_json::to_vec(&spec)?)?;
        Ok(bundle)
    }

    /// Starts a container that sleeps.
    pub fn sleeper(&self, id: &str) -> Result<Running<'_>> {
        let bundle = self.bundle(&["/bin/sleep", "100000"])?;
        let running = Running { bench: self, id: id.to_string() };
        let mut command = self.cor();
        command.args(["run", "--detach", "--bundle"]).arg(bundle).arg(id);
        timed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
        Ok(running)
    }

    /// The timeline of a container, in microseconds by name.
    pub fn timeline(&self, id: &str) -> Result<Vec<(String, f64)>> {
        let output = succeed(self.cor().args(["trace", "--json", id]))?;
        let record: Value = serde_json::from_slice(&output.stdout)?;
        let stamp = |s: &Value| Some((s["name"].as_str()?.to_string(), s["at_us"].as_f64()?));
        Ok(record["timeline"].as_array().into_iter().flatten().filter_map(stamp).collect())
    }
}

/// A container that runs; deleted when dropped.
pub struct Running<'a> {
    bench: &'a Bench,
    pub id: String,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.bench.cor().args(["delete", "--force", &self.id]).output();
    }
}

/// Runs to success; returns what it printed.
pub fn succeed(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// Runs to success; returns how long it took.
pub fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(begun.elapsed())
}
