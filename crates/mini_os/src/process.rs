//! Runs the programs that do the heavy work, and turns their failure into one line.
//!
//! Callers: `apt`, `kernel`, `image`.

#![expect(unsafe_code, reason = "Command::pre_exec is the only way to set a child's parent-death signal")]

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};

/// How many of a program's last lines an error shows.
const LAST_LINES: usize = 4;

/// Longest line of a program's output that is kept, in bytes.
const MAX_LINE: u64 = 4096;

/// A program that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// the program is not installed
    #[error("{0} is not installed ({1})")]
    Missing(String, &'static str),
    /// the program could not be started or its output not be read
    #[error("running {0}: {1}")]
    Run(String, io::Error),
    /// the program failed
    #[error("{program} failed with {status} ({fix}){last}")]
    Failed {
        /// Name of the program.
        program: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// What the user can do.
        fix: &'static str,
        /// Its last lines, each preceded by a line break and blanks.
        last: String,
    },
}

/// Runs a program to its end and hands every line that it prints, on both outputs, to `each`.
///
/// The program ends when we do: a kernel build does not outlive a killed `clear-mini-os`.
///
/// # Errors
/// [`ProcessError`], naming the program, `fix`, and the last lines it printed.
pub fn run(command: &mut Command, fix: &'static str, each: &mut dyn FnMut(&str)) -> Result<(), ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error| ProcessError::Run(program.clone(), error);
    let (output, writer) = io::pipe().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    die_with_parent(command);
    let child = command.spawn();
    // The command holds the write end; without this, reading would never see the end of the output.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ProcessError::Missing(program.clone(), fix),
        _ => failed(error),
    })?;
    let last = lines(output, each);
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let last = last.iter().map(|line| format!("\n    {line}")).collect();
    Err(ProcessError::Failed { program, status, fix, last })
}

/// Runs a program and returns what it printed on both outputs.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command, fix: &'static str) -> Result<String, ProcessError> {
    let mut text = String::new();
    run(command, fix, &mut |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    Ok(text)
}

/// Runs a filter program: its input from one file, its output to another.
///
/// # Errors
/// As [`run`]; what the filter prints on standard error is shown.
pub fn filter(
    command: &mut Command,
    fix: &'static str,
    input: std::fs::File,
    to: std::fs::File,
) -> Result<(), ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    die_with_parent(command);
    let child = command.stdin(input).stdout(to).stderr(Stdio::piped()).spawn();
    let done = child.and_then(std::process::Child::wait_with_output).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ProcessError::Missing(program.clone(), fix),
        _ => ProcessError::Run(program.clone(), error),
    })?;
    if done.status.success() {
        return Ok(());
    }
    let last =
        lines(done.stderr.as_slice(), &mut |_| {}).iter().map(|line| format!("\n    {line}")).collect();
    Err(ProcessError::Failed { program, status: done.status, fix, last })
}

fn lines(output: impl Read, each: &mut dyn FnMut(&str)) -> VecDeque<String> {
    let mut reader = BufReader::new(output);
    let mut last = VecDeque::new();
    let mut bytes = Vec::new();
    while matches!(reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes), Ok(1..)) {
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        each(line);
        if !line.trim().is_empty() {
            last.push_back(line.to_string());
        }
        if last.len() > LAST_LINES {
            last.pop_front();
        }
        bytes.clear();
    }
    last
}

fn die_with_parent(command: &mut Command) {
    let signal =
        || Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?);
    // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent.
    unsafe { command.pre_exec(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_outputs_are_seen() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        run(command.args(["-c", "echo one; echo two >&2"]), "", &mut |line| seen.push(line.to_string()))
            .unwrap();
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn failure_shows_fix_and_last_lines() {
        let mut command = Command::new("sh");
        let error = output(command.args(["-c", "seq 9; exit 3"]), "try again").unwrap_err().to_string();
        assert!(error.contains("exit status: 3 (try again)"), "{error}");
        assert!(error.ends_with("\n    6\n    7\n    8\n    9"), "{error}");
    }

    #[test]
    fn missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program"), "install it").unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed (install it)");
    }

    #[test]
    fn endless_line_is_cut() {
        let mut longest = 0;
        let mut command = Command::new("sh");
        let command = command.args(["-c", "head -c 100000 /dev/zero | tr '\\0' x"]);
        run(command, "", &mut |line| longest = longest.max(line.len())).unwrap();
        assert_eq!(longest as u64, MAX_LINE);
    }
}
