//! Wall clock and random pool, from what the host sends.

use crate::error::{Doing, Result};
use crate::sys;
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, Timespec, clock_settime};

/// Most random bytes that are used of a message: the size of the kernel's pool and more.
const MAX_ENTROPY: usize = 4096;

/// Sets the clock to `ns` nanoseconds since the Unix epoch; 0 leaves it alone.
///
/// # Errors
/// Those of clock_settime(2).
pub fn set(ns: u64) -> Result<()> {
    if ns == 0 {
        return Ok(());
    }
    let time = Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ };
    clock_settime(ClockId::Realtime, time).doing(|| "set the clock".into())
}

/// Mixes `bytes` into the kernel's random pool and credits them.
///
/// # Errors
/// When /dev/random does not take them.
pub fn add_entropy(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let what = || "add random bytes to /dev/random".to_owned();
    let random =
        rustix::fs::open("/dev/random", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
    sys::add_entropy(random.as_fd(), &bytes[..bytes.len().min(MAX_ENTROPY)]).doing(what)
}
