//! One command of the runtime, with a deadline. Outputs go to files: what the container's processes keep open holds nothing up.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest time that a command of the runtime, or a container's end, is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often something is looked at that tells nobody of its end.
pub const INTERVAL: Duration = Duration::from_millis(3);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its words, for messages.
    pub line: String,
    /// Exit code; 128 + number when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Fails unless the exit code is 0.
    pub fn ok(self) -> Result<Self> {
        if self.code == 0 {
            return Ok(self);
        }
        bail!("`{}`: expected success, came exit code {}: {}", self.line, self.code, self.message())
    }

    /// Fails when the exit code is 0.
    pub fn refused(self) -> Result<Self> {
        if self.code != 0 {
            return Ok(self);
        }
        bail!("`{}`: expected an error, came success", self.line)
    }

    /// What it said, on one line.
    pub fn message(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        text.trim().replace('\n', " | ").chars().take(600).collect()
    }
}

/// Runs a command whose streams go to the files `name.out` and `name.err` of a directory.
///
/// # Errors
/// It cannot be started, or did not end in time; it is killed then.
pub fn run(command: &mut Command, directory: &Path, name: &str) -> Result<Output> {
    let line = line(command);
    let (out, err) = (directory.join(format!("{name}.out")), directory.join(format!("{name}.err")));
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    let mut child = command.spawn().with_context(|| format!("starting `{line}`"))?;
    let status = wait(&mut child).with_context(|| format!("`{line}`"))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Output { line, code, stdout: read(&out)?, stderr: read(&err)? })
}

/// A file that need not be UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits until this gives something.
///
/// # Errors
/// What was waited for did not come within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            bail!("expected {what} within {} s, it did not come", PATIENCE.as_secs());
        }
        sleep(INTERVAL);
    }
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let ended = until("its end", || Ok(child.try_wait()?));
    if ended.is_err() {
        // Both fail only when it ended just now.
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
