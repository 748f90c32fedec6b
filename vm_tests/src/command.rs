//! One program with a deadline. Outputs go to files, so a keeper that holds them open does not hold up the test.

use crate::wait::PATIENCE;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A command to run.
#[derive(Debug, Clone)]
pub struct Command {
    line: Vec<OsString>,
    input: Vec<u8>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    patience: Duration,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub line: String,
    /// Exit code; 128 + number when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// A command that runs. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    stdout: File,
    stderr: File,
    patience: Duration,
}

impl Command {
    /// A program, without arguments yet.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Command {
            line: vec![program.as_ref().into()],
            input: Vec::new(),
            env: Vec::new(),
            directory: None,
            patience: PATIENCE,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.line.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.line.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// The same command as the last arguments of another one.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.line.splice(0..0, words.iter().map(OsString::from));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Bytes for standard input, which is empty otherwise.
    #[must_use]
    pub fn input(mut self, input: impl AsRef<[u8]>) -> Self {
        self.input = input.as_ref().to_vec();
        self
    }

    /// Working directory.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_path_buf());
        self
    }

    /// Another deadline than [`PATIENCE`].
    #[must_use]
    pub fn patience(mut self, seconds: u64) -> Self {
        self.patience = Duration::from_secs(seconds);
        self
    }

    /// The same command for callers that need pipes or a terminal.
    pub fn std(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.line[0]);
        command.args(&self.line[1..]).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self) -> Running {
        let mut stdin = tempfile::tempfile().expect("a temporary file for input");
        stdin
            .write_all(&self.input)
            .and_then(|()| stdin.seek(SeekFrom::Start(0)))
            .expect("writing the input");
        self.spawn(stdin.into())
    }

    /// Starts it with a pipe as its standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with_pipe(&self) -> (Running, ChildStdin) {
        let mut running = self.spawn(Stdio::piped());
        let stdin = running.child.stdin.take().expect("a pipe was asked for");
        (running, stdin)
    }

    fn spawn(&self, stdin: Stdio) -> Running {
        let file = || tempfile::tempfile().expect("a temporary file for output");
        let (stdout, stderr) = (file(), file());
        let copy = |file: &File| Stdio::from(file.try_clone().expect("duplicating a descriptor"));
        let mut command = self.std();
        command.stdin(stdin).stdout(copy(&stdout)).stderr(copy(&stderr));
        let line = self.to_string();
        let child = command.spawn().unwrap_or_else(|e| panic!("starting {line}: {e}"));
        Running { line, child, stdout, stderr, patience: self.patience }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn run(&self) -> Output {
        self.start().wait()
    }

    /// Runs it and expects exit code 0; returns its standard output as text.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok(&self) -> String {
        self.run().expect(0).text()
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.line.iter().map(|word| word.to_string_lossy()).collect();
        write!(f, "{}", words.join(" "))
    }
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit code, once it has ended.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().expect("waiting for a child").map(code)
    }

    /// What it has written so far, with exit code 0 while it runs.
    pub fn output_so_far(&self) -> Output {
        self.output(ExitStatus::default())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        crate::terminal::send_signal(self.child.id(), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait(mut self) -> Output {
        let deadline = Instant::now() + self.patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for a child") {
                break status;
            }
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let output = self.output(ExitStatus::from_raw(9));
                panic!("did not end within {} s: {output}", self.patience.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.output(status)
    }

    fn output(&self, status: ExitStatus) -> Output {
        Output {
            line: self.line.clone(),
            code: code(status),
            stdout: content(&self.stdout),
            stderr: content(&self.stderr),
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads by position: the file's own position is shared with the writer.
fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().map_or(0, |m| m.len()) as usize];
    let mut filled = 0;
    while let Ok(count @ 1..) = file.read_at(&mut bytes[filled..], filled as u64) {
        filled += count;
    }
    bytes.truncate(filled);
    bytes
}

impl Output {
    /// Expects an exit code.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {self}");
        self
    }

    /// Standard output as text, without the last line break.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_string()
    }

    /// Lines of standard output.
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(String::from).collect()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Expects a refusal: exit code 1 and one line on standard error that names the problem, besides warnings.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn refused(self, words: &str) -> String {
        assert_eq!(self.code, 1, "exit code of {self}");
        let errors = self.errors();
        let lines: Vec<_> = errors.lines().filter(|line| !line.starts_with("cor: warning: ")).collect();
        assert_eq!(lines.len(), 1, "one clear line of {self}");
        let speaker =
            ["cor: ", "clear-mini-os: ", "clear-vmm: "].iter().any(|name| lines[0].starts_with(name));
        assert!(speaker, "says who speaks: {self}");
        assert!(lines[0].contains(words), "{words:?} in {self}");
        lines[0].to_string()
    }

    /// Standard error without the warning about emulation and the like.
    pub fn errors_without_warnings(&self) -> String {
        self.errors()
            .lines()
            .filter(|line| !line.starts_with("cor: warning: "))
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
        let (out, err) = (shown(&self.stdout), shown(&self.stderr));
        write!(f, "{}\n--- exit code {}, stdout:\n{out}\n--- stderr:\n{err}\n---", self.line, self.code)
    }
}
