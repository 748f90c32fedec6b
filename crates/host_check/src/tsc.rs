//! How fast the processor's time stamp counter runs: what an emulated guest cannot find out well, as it has no other steady clock.

#![expect(unsafe_code, reason = "reading the counter is an intrinsic")]

use crate::Root;
use std::time::{Duration, Instant};

/// Which clock the kernel has chosen, after it has looked at the others' faults.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Clocks that count with the counter, so that it is steady and the same on all processors.
const STEADY: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

/// Time to measure over: an error of 60 ns at both ends is one of 6 in a million.
const SPAN: Duration = Duration::from_millis(20);

/// Readings at one time; the one with the least between its ends counts.
const READINGS: usize = 5;

/// Thousands of ticks a second; nothing where the counter is not steady.
pub(crate) fn khz(root: &Root) -> Option<u32> {
    let clock = root.read(CLOCK).ok()?;
    STEADY.contains(&clock.trim()).then(measure).flatten()
}

fn measure() -> Option<u32> {
    let begin = sample();
    std::thread::sleep(SPAN);
    let end = sample();
    let ns = end.1.duration_since(begin.1).as_nanos();
    let ticks = u128::from(end.0.wrapping_sub(begin.0));
    u32::try_from((ticks * 1_000_000).checked_div(ns)?).ok().filter(|khz| *khz > 0)
}

/// Both clocks at one moment.
fn sample() -> (u64, Instant) {
    let reading = || {
        let before = counter();
        let time = Instant::now();
        let between = counter().wrapping_sub(before);
        (between, (before.wrapping_add(between / 2), time))
    };
    let all = std::iter::repeat_with(reading).take(READINGS);
    all.min_by_key(|(between, _)| *between).expect("there are some").1
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
        assert_eq!(khz(&host.root()), None);
        host.write(CLOCK, "hpet\n");
        assert_eq!(khz(&host.root()), None);
        host.write(CLOCK, "tsc\n");
        assert!(khz(&host.root()).is_some_and(|khz| khz > 100_000));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn two_measurements_are_near_each_other() {
        let [one, two] = [0; 2].map(|_| f64::from(measure().unwrap()));
        assert!((one / two - 1.0).abs() < 0.05, "{one} {two}");
    }
}
