//! What is going on, on standard error: one line that changes on a terminal, a line per phase elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Shows the phases of a build.
pub struct Progress {
    mode: Mode,
    started: Instant,
    phase: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Terminal,
}

impl Progress {
    /// Picks the form that suits standard error.
    pub fn new(quiet: bool) -> Progress {
        let terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|t| t != "dumb");
        let mode = match (quiet, terminal) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Terminal,
            (false, false) => Mode::Lines,
        };
        Progress { mode, started: Instant::now(), phase: String::new() }
    }

    /// A new phase begins.
    pub fn phase(&mut self, text: &str) {
        self.phase = text.to_string();
        match self.mode {
            Mode::Quiet => {}
            Mode::Lines => eprintln!("[{:4} s] {text}", self.started.elapsed().as_secs()),
            Mode::Terminal => self.draw(""),
        }
    }

    /// How far the phase is, for a terminal only.
    pub fn step(&mut self, text: &str) {
        if self.mode == Mode::Terminal {
            self.draw(text);
        }
    }

    /// A step worth a line where lines do not change.
    pub fn milestone(&mut self, text: &str) {
        if self.mode == Mode::Lines {
            eprintln!("[{:4} s] {text}", self.started.elapsed().as_secs());
        }
    }

    /// Something that stays readable, for example a warning.
    pub fn note(&mut self, text: &str) {
        self.clear();
        if self.mode != Mode::Quiet {
            eprintln!("{text}");
        }
    }

    fn draw(&self, step: &str) {
        let separator = if step.is_empty() { "" } else { ": " };
        let line = format!("[{:4} s] {}{separator}{step}", self.started.elapsed().as_secs(), self.phase);
        let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |s| s.ws_col.max(20));
        let line: String = line.chars().take(usize::from(width) - 1).collect();
        let mut stderr = std::io::stderr().lock();
        // A terminal that went away must not stop a build.
        let _ = write!(stderr, "\r\x1b[K\x1b[36m{line}\x1b[0m").and_then(|()| stderr.flush());
    }

    fn clear(&self) {
        if self.mode == Mode::Terminal {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
