//! A port to which the guest writes one byte at each step of its boot; each first write is kept with its time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The port. Nothing of a PC is there.
pub const PORT: u16 = 0x5C0;

/// Stamps that are kept: a guest can write as many as it likes.
const MAX: usize = 64;

/// Times of steps of the boot.
#[derive(Debug)]
pub struct Stamps {
    start: Instant,
    seen: Mutex<Vec<(u8, Duration)>>,
}

impl Stamps {
    /// Counts from `start`, the start of the program.
    pub fn new(start: Instant) -> Self {
        Stamps { start, seen: Mutex::new(Vec::new()) }
    }

    /// The guest has reached `step`.
    pub fn record(&self, step: u8) {
        let mut seen = crate::bus::lock(&self.seen);
        if seen.len() < MAX {
            seen.push((step, self.start.elapsed()));
        }
    }

    /// All stamps in the order of their times.
    pub fn list(&self) -> Vec<(u8, Duration)> {
        crate::bus::lock(&self.seen).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded() {
        let stamps = Stamps::new(Instant::now());
        for step in 0..1000u32 {
            stamps.record(step as u8);
        }
        let list = stamps.list();
        assert_eq!(list.len(), MAX);
        assert!(list.is_sorted_by_key(|(_, time)| *time));
    }
}
