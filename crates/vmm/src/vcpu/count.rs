//! Counts what makes vCPUs exit to this program: the budget of a boot, and where to look when it grows.

use crate::bus::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Places that are told apart; a guest can touch as many as it likes.
const MAX_PLACES: usize = 1024;

/// What an exit was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `in` from a port.
    PortRead(u16),
    /// `out` to a port.
    PortWrite(u16),
    /// A load, by page.
    MmioRead(u64),
    /// A store, by page.
    MmioWrite(u64),
    /// Interrupted by a signal, and all else.
    Other,
}

/// Counters of all vCPUs.
#[derive(Debug, Default)]
pub struct ExitCounts(Mutex<BTreeMap<Place, u64>>);

impl ExitCounts {
    /// One more.
    pub fn add(&self, place: Place) {
        let mut counts = lock(&self.0);
        let place =
            if counts.len() < MAX_PLACES || counts.contains_key(&place) { place } else { Place::Other };
        *counts.entry(place).or_default() += 1;
    }

    /// All exits, and the places with the most of them.
    pub fn report(&self) -> String {
        let counts = lock(&self.0);
        let mut places: Vec<_> = counts.iter().map(|(place, count)| (*count, *place)).collect();
        places.sort_by(|a, b| b.cmp(a));
        let total: u64 = counts.values().sum();
        let mut text = format!("{total} exits");
        for (count, place) in places.iter().take(20) {
            text.push_str(&match place {
                Place::PortRead(port) => format!("\n{count:8} in {port:#x}"),
                Place::PortWrite(port) => format!("\n{count:8} out {port:#x}"),
                Place::MmioRead(page) => format!("\n{count:8} load {page:#x}"),
                Place::MmioWrite(page) => format!("\n{count:8} store {page:#x}"),
                Place::Other => format!("\n{count:8} other"),
            });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_comes_first_and_the_table_is_bounded() {
        let counts = ExitCounts::default();
        for port in 0..=u16::MAX {
            counts.add(Place::PortRead(port));
        }
        counts.add(Place::PortWrite(7));
        (0..3).for_each(|_| counts.add(Place::PortRead(9)));
        let report = counts.report();
        assert!(report.starts_with("65540 exits"), "{report}");
        assert!(report.contains("\n       4 in 0x9"), "{report}");
    }
}
