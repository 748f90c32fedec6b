//! `--console` and `--hvc`: where the guest's serial console and its virtio console are.

use super::spec::{Fd, Source};
use crate::machine::devices::OpenDevice;
use crate::machine::files::Console;
use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Our standard input and output.
    Stdio,
    /// No serial console.
    None,
    /// A terminal or file.
    Path(PathBuf),
    /// A donated socket or terminal.
    Fd(Fd),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "stdio" => Choice::Stdio,
            "none" => Choice::None,
            fd if fd.starts_with("fd:") => Choice::Fd(fd.parse()?),
            path => Choice::Path(path.into()),
        })
    }
}

/// Puts the terminal back when it goes away.
#[derive(Debug)]
pub struct RawTerminal {
    file: OwnedFd,
    before: Termios,
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.file, OptionalActions::Now, &self.before);
    }
}

/// Opens it. A terminal is in raw mode as long as the second value lives: all keys go to the guest.
///
/// # Errors
/// When the file cannot be opened or the terminal not be set.
pub fn open(choice: &Choice) -> anyhow::Result<(Option<Console>, Option<RawTerminal>)> {
    let (input, output) = match choice {
        Choice::None => return Ok((None, None)),
        Choice::Stdio => (
            Some(io::stdin().as_fd().try_clone_to_owned()?),
            File::from(io::stdout().as_fd().try_clone_to_owned()?),
        ),
        Choice::Path(path) => {
            let opened = OpenOptions::new().append(true).create(true).open(path);
            let file = opened.map_err(|e| anyhow::anyhow!("opening the console {}: {e}", path.display()))?;
            let input = if isatty(&file) { Some(OwnedFd::from(File::open(path)?)) } else { None };
            (input, file)
        }
        Choice::Fd(fd) => {
            let file = fd.take()?;
            (Some(file.try_clone()?), File::from(file))
        }
    };
    let raw = match &input {
        Some(input) if isatty(input) => Some(make_raw(input)?),
        _ => None,
    };
    Ok((Some(Console { input, output }), raw))
}

/// Opens the virtio console: a terminal or FIFO for both directions, a file for output, or a donated socket. Nothing of it blocks.
///
/// # Errors
/// When the file cannot be opened.
pub fn open_hvc(source: &Source) -> anyhow::Result<OpenDevice> {
    let (input, output) = match source {
        Source::Path(path) => {
            let failed = |e| anyhow::anyhow!("opening the console {}: {e}", path.display());
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600).custom_flags(flags);
            let file = options.open(path).map_err(failed)?;
            // A file that grows would give the guest its own words.
            let regular = file.metadata().map_err(failed)?.is_file();
            (if regular { None } else { Some(file.try_clone()?) }, file)
        }
        Source::Fd(fd) => {
            let file = File::from(fd.take()?);
            let flags = rustix::fs::fcntl_getfl(&file)?;
            rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
            (Some(file.try_clone()?), file)
        }
    };
    Ok(OpenDevice::Console { input, output: Some(output) })
}

fn make_raw(input: &OwnedFd) -> io::Result<RawTerminal> {
    let before = tcgetattr(input)?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(input, OptionalActions::Now, &raw)?;
    Ok(RawTerminal { file: input.try_clone()?, before })
}
