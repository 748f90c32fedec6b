//! How fast the processor's time stamp counter runs: what an emulated guest cannot find out well, as it has no other steady clock.

#![expect(unsafe_code, reason = "reading the counter is an intrinsic")]

use crate::Root;
use std::time::{Duration, Instant};

/// Which clock the kernel has chosen, after it has looked at the others' faults.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Clocks that count with the counter, so that it is steady and the same on all processors.
const STEADY: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

/// Shortest time to measure over: an error of 60 ns at both ends is one of 60 in a million.
const SPAN: Duration = Duration::from_millis(2);

/// Readings at one time; the one with the least between its ends counts.
const READINGS: usize = 5;

/// The beginning of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    ticks: u64,
    time: Instant,
}

impl Sample {
    /// Both clocks now; nothing where the counter is not steady.
    pub fn take(root: &Root) -> Option<Sample> {
        let clock = root.read(CLOCK).ok()?;
        STEADY.contains(&clock.trim()).then(Sample::now)
    }

    fn now() -> Sample {
        let reading = || {
            let before = counter();
            let time = Instant::now();
            let between = counter().wrapping_sub(before);
            (between, Sample { ticks: before.wrapping_add(between / 2), time })
        };
        let all = std::iter::repeat_with(reading).take(READINGS);
        all.min_by_key(|(between, _)| *between).expect("there are some").1
    }

    /// Thousands of ticks a second since then.
    pub fn khz(self) -> Option<u32> {
        std::thread::sleep(SPAN.saturating_sub(self.time.elapsed()));
        let end = Sample::now();
        let ns = end.time.duration_since(self.time).as_nanos();
        let ticks = u128::from(end.ticks.wrapping_sub(self.ticks));
        u32::try_from((ticks * 1_000_000).checked_div(ns)?).ok().filter(|khz| *khz > 0)
    }
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Nothing counts.
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;

    #[test]
    fn only_a_steady_counter_is_measured() {
        let host = FakeHost::new();
        assert!(Sample::take(&host.root()).is_none());
        host.write(CLOCK, "hpet\n");
        assert!(Sample::take(&host.root()).is_none());
        host.write(CLOCK, "tsc\n");
        assert!(Sample::take(&host.root()).is_some());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn two_measurements_are_near_each_other() {
        let [one, two] = [0; 2].map(|_| f64::from(Sample::now().khz().unwrap()));
        assert!((one / two - 1.0).abs() < 0.05, "{one} {two}");
    }
}
