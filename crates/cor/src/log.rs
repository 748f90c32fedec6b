//! Messages: to standard error for people, to `--log` for engines.
//!
//! An error is always on standard error, as one line `cor: ...`, and in the log. Warnings and less are on standard error
//! only when there is no log, and when it is not about to become the program's own.

use crate::cli::{Global, LogFormat};
use anyhow::Context as _;
use sandbox::configuration::LogLevel;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};

/// How bad a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Where messages go.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    format: LogFormat,
    least: Cell<Level>,
    /// Standard error is the program's: an engine would take what is said there for its output.
    quiet: Cell<bool>,
}

impl Log {
    /// Opens the log file, if one is named.
    pub fn open(global: &Global) -> anyhow::Result<Self> {
        let file = match &global.log {
            Some(path) => Some(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("opening log file {}", path.display()))?,
            ),
            None => None,
        };
        let least = if global.debug { Level::Debug } else { Level::Info };
        Ok(Log { file, format: global.log_format, least: Cell::new(least), quiet: Cell::new(false) })
    }

    /// Follows the configuration, unless the command line asked for more.
    pub fn configure(&self, level: LogLevel) {
        let level = match level {
            LogLevel::Debug => Level::Debug,
            LogLevel::Info => Level::Info,
            LogLevel::Warning => Level::Warning,
            LogLevel::Error => Level::Error,
        };
        if self.least.get() != Level::Debug {
            self.least.set(level);
        }
    }

    /// Leaves standard error to the container's program, except for errors. A terminal is read by people.
    pub fn leave_stderr(&self) {
        self.quiet.set(!std::io::stderr().is_terminal());
    }

    /// Something failed.
    pub fn error(&self, message: &str) {
        self.put(Level::Error, message);
    }

    /// Something is not as asked for.
    pub fn warn(&self, message: &str) {
        self.put(Level::Warning, message);
    }

    /// Something for developers.
    pub fn debug(&self, message: &str) {
        self.put(Level::Debug, message);
    }

    fn put(&self, level: Level, message: &str) {
        if level < self.least.get() {
            return;
        }
        let message: String = message.chars().map(|c| if c == '\n' { ' ' } else { c }).collect();
        if let Some(mut file) = self.file.as_ref() {
            // A full log disk must not fail what is being done.
            let _ = writeln!(file, "{}", self.line(level, &message));
        }
        if level == Level::Error || self.file.is_none() && !self.quiet.get() {
            let word = match level {
                Level::Error => "",
                Level::Warning => "warning: ",
                Level::Info | Level::Debug => "note: ",
            };
            let mut stderr = std::io::stderr().lock();
            let (on, off) = match level {
                Level::Error if stderr.is_terminal() => ("\x1b[31m", "\x1b[0m"),
                Level::Warning if stderr.is_terminal() => ("\x1b[33m", "\x1b[0m"),
                _ => ("", ""),
            };
            let _ = writeln!(stderr, "{on}cor: {word}{message}{off}");
        }
    }

    fn line(&self, level: Level, message: &str) -> String {
        let time = humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string();
        match self.format {
            LogFormat::Json => {
                serde_json::json!({"level": level.name(), "msg": message, "time": time}).to_string()
            }
            LogFormat::Text => format!("time={time:?} level={} msg={message:?}", level.name()),
        }
    }
}
