//! What the agent says to people: lines in the kernel's log, which the host sees on the guest's console.

use crate::error::cut;
use rustix::fs::{Mode, OFlags};
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest line, in bytes; /dev/kmsg takes no record of 1 KiB or more.
const MAX_LINE: usize = 900;

static TALKATIVE: AtomicBool = AtomicBool::new(false);

/// Turns [`debug`] on (kernel parameter `clear.debug`).
pub fn be_talkative() {
    TALKATIVE.store(true, Ordering::Relaxed);
}

/// A line that is worth having only when somebody looks for a fault.
pub fn debug(line: &str) {
    if TALKATIVE.load(Ordering::Relaxed) {
        write("/dev/kmsg", &format!("<6>clear-agent: {}\n", one_line(line)));
    }
}

/// A line that says that something is wrong.
pub fn warn(line: &str) {
    write("/dev/kmsg", &format!("<4>clear-agent: {}\n", one_line(line)));
}

/// The last line before the machine ends; shown on the console however quiet the kernel is.
pub fn fatal(line: &str) {
    let line = one_line(line);
    if !write("/dev/kmsg", &format!("<0>clear-agent: {line}\n")) {
        write("/dev/console", &format!("clear-agent: {line}\n"));
    }
}

fn one_line(line: &str) -> String {
    cut(line, MAX_LINE).replace('\n', " ")
}

fn write(path: &str, text: &str) -> bool {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    rustix::io::write(fd, text.as_bytes()).is_ok()
}
