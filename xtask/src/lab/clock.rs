//! The frequency of the time stamp counter, which the emulator passes through.
//!
//! The lab's kernel would measure it against an emulated timer. On a busy host it comes out wrong by a factor, or the kernel
//! gives the counter up, and KVM's guests with it. So it is measured here, where time is not emulated, and told.

use super::sys;
use std::thread;
use std::time::{Duration, Instant};

/// How long to measure: an error of a microsecond is one in 20,000, which the kernel refines later.
const SPAN: Duration = Duration::from_millis(20);

/// How often to look for a moment in which nothing comes between.
const TRIES: u32 = 200;

/// The time and the counter at the same moment.
struct Sample {
    time: Instant,
    counter: u64,
}

impl Sample {
    /// The one of many tries in which reading both took least.
    fn take() -> Option<Self> {
        let once = || {
            let before = Instant::now();
            let counter = sys::time_stamp()?;
            let took = before.elapsed();
            Some((took, Self { time: before + took / 2, counter }))
        };
        let tries = (0..TRIES).filter_map(|_| once());
        tries.min_by_key(|(took, _)| *took).map(|(_, sample)| sample)
    }
}

/// The counter's frequency in kHz; `None` where there is no such counter.
pub fn tsc_khz() -> Option<u64> {
    let first = Sample::take()?;
    thread::sleep(SPAN);
    let last = Sample::take()?;
    frequency(last.counter.checked_sub(first.counter)?, last.time - first.time)
}

/// In kHz.
fn frequency(ticks: u64, time: Duration) -> Option<u64> {
    u64::try_from(u128::from(ticks) * 1_000_000 / time.as_nanos().max(1)).ok().filter(|khz| *khz > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_per_millisecond() {
        assert_eq!(frequency(52_000_000, Duration::from_millis(20)), Some(2_600_000));
        assert_eq!(frequency(0, Duration::from_millis(20)), None);
        assert_eq!(frequency(5, Duration::ZERO), Some(5_000_000));
    }

    #[test]
    fn this_processor_has_a_counter_that_counts() {
        let khz = tsc_khz();
        assert_eq!(khz.is_some(), cfg!(target_arch = "x86_64"), "{khz:?}");
    }
}
