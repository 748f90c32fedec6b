//! The end of the machine.

use crate::{log, sys};
use rustix::system::{RebootCommand, reboot};
use std::sync::atomic::{AtomicBool, Ordering};

static CHILD: AtomicBool = AtomicBool::new(false);

/// Says that this process is a child of the agent, whose end is not the machine's.
pub fn this_is_a_child() {
    CHILD.store(true, Ordering::Relaxed);
}

/// Writes everything back to the host. Afterwards the machine's power may be cut.
pub fn write_back() {
    super::boot::unmount_disks();
    rustix::fs::sync();
}

/// Writes everything back and ends the machine. The VMM takes a reset for the end.
pub fn off() -> ! {
    write_back();
    let e = reboot(RebootCommand::Restart);
    log::fatal(&format!("cannot reboot: {e:?}"));
    // The kernel panics, and with panic=-1 on its command line reboots.
    sys::exit_now(1)
}

/// Ends the machine because the agent cannot go on.
pub fn fail(why: &str) -> ! {
    log::fatal(why);
    off()
}

/// Makes a panic end the machine, or the process if it is a child.
pub fn on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let line = info.to_string();
        log::fatal(&line);
        if CHILD.load(Ordering::Relaxed) {
            sys::exit_now(70);
        }
        off()
    }));
}
