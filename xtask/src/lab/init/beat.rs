//! PID 1's side of the control port while the command runs: the beat that the host would miss, and the answer when it asks.

use crate::lab::wire::{self, Report};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A sixth of what the host takes for a miss, of which it wants several.
const BEAT: Duration = Duration::from_secs(2);

/// The port after the job has come: several threads write reports to it.
#[derive(Clone)]
pub struct Control(Arc<Mutex<File>>);

impl Control {
    /// Of the open port.
    pub fn new(port: File) -> Self {
        Self(Arc::new(Mutex::new(port)))
    }

    /// Sends a report.
    ///
    /// # Errors
    /// Those of the port.
    pub fn send(&self, report: &Report) -> io::Result<()> {
        wire::send(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), report)
    }

    /// Starts the beat.
    pub fn beat(&self) {
        let control = self.clone();
        thread::spawn(move || {
            while control.send(&Report::Alive).is_ok() {
                thread::sleep(BEAT);
            }
        });
    }

    /// Starts to answer the host; the thread ends when the host closes the port.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn answer(&self) -> Result<JoinHandle<()>> {
        let port = self.0.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let mut port = port.context("using the control port twice")?;
        Ok(thread::spawn(move || {
            while port.read_exact(&mut [0]).is_ok() {
                // The kernel adds the stacks of what is blocked.
                let _ = fs::write("/proc/sysrq-trigger", "w");
                let _ = fs::write("/dev/console", processes());
            }
        }))
    }
}

/// A line for each process that is a program: its number, state, where in the kernel it waits, its arguments.
fn processes() -> String {
    let mut lines = String::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let number = entry.file_name();
        // Not `self`, and no thread of the kernel.
        if !number.as_encoded_bytes()[0].is_ascii_digit() || arguments.is_empty() {
            continue;
        }
        let (stat, wait) = (read("stat"), read("wchan"));
        let stat = String::from_utf8_lossy(&stat);
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
        let arguments: String = arguments.chars().take(120).collect();
        let wait = String::from_utf8_lossy(&wait);
        let _ = writeln!(lines, "lab: {} {state} {wait} {arguments}", number.display());
    }
    lines
}
