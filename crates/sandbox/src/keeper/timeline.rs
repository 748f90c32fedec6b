//! When things happened, from the moment the user's command began.

use crate::history::Stamp;
use guest_protocol::message;
use rustix::time::{ClockId, clock_gettime};

/// Microseconds of CLOCK_MONOTONIC, which all processes of the host share.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Longest stamp name accepted from the guest, in characters, and most stamps.
const MAX_NAME: usize = 32;
const MAX_STAMPS: usize = 16;

/// Stamps of one container.
#[derive(Debug, Clone)]
pub struct Timeline {
    start_us: u64,
    stamps: Vec<Stamp>,
}

impl Timeline {
    /// Begins at `start_us` of [`now_us`].
    pub fn new(start_us: u64) -> Self {
        Timeline { start_us, stamps: Vec::new() }
    }

    /// Notes that something has just happened.
    pub fn stamp(&mut self, name: &str) {
        self.stamps.push(Stamp { name: name.to_string(), at_us: now_us().saturating_sub(self.start_us) });
    }

    /// Notes that something has just happened for the first time.
    pub fn stamp_once(&mut self, name: &str) {
        if !self.stamps.iter().any(|s| s.name == name) {
            self.stamp(name);
        }
    }

    /// Puts the guest's stamps in, given that its last one was made just now. The guest's clock starts with its kernel.
    pub fn guest(&mut self, stamps: &[message::Stamp]) {
        let now = now_us().saturating_sub(self.start_us);
        let Some(last) = stamps.last() else { return };
        let at = |boottime_us: u64| now.saturating_sub(last.boottime_us.saturating_sub(boottime_us));
        self.stamps.push(Stamp { name: "guest: kernel clock".into(), at_us: at(0) });
        for stamp in stamps.iter().take(MAX_STAMPS) {
            let name: String = stamp.name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
            self.stamps.push(Stamp { name: format!("guest: {name}"), at_us: at(stamp.boottime_us) });
        }
    }

    /// All stamps in order of time.
    pub fn stamps(&self) -> Vec<Stamp> {
        let mut stamps = self.stamps.clone();
        stamps.sort_by_key(|s| s.at_us);
        stamps
    }
}
