//! Limits for what a guest may do per second: token buckets for bytes and for operations.
//!
//! ```text
//!   request ─► Limiter::ready? ── yes ─► do it, then Limiter::charge(bytes)
//!                     └── no ─► the device leaves its queue alone; timerfd ─► Device::ready ─► Limiter::expired ─► go on
//! ```
//!
//! A bucket may go into debt: a request starts whenever something is left, whatever its size, and the debt is paid before the next
//! one. So a request larger than the burst is possible, and the rate over time is exact.

use super::device::Watch;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Tokens are counted in billionths, so that nothing is lost between two looks at the clock.
const UNIT: i128 = 1_000_000_000;

/// The limit of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes or operations per second; 0 counts as 1.
    pub per_second: u64,
    /// How much may be taken at once after a pause; 0 counts as 1.
    pub burst: u64,
}

impl Rate {
    /// A rate that may be exceeded for as long as nobody would call it a pause: a tenth of a second's worth at once, and at least `least`.
    fn smooth(per_second: u64, least: u64) -> Self {
        Rate { per_second, burst: (per_second / 10).max(least) }
    }
}

/// Least bytes that may be taken at once, however low the rate: what one request usually asks for.
const LEAST_BURST: u64 = 64 << 10;

/// What a user allows a second; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerSecond {
    /// Bytes.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Requests or packets.
    #[serde(default)]
    pub ops: Option<u64>,
}

impl PerSecond {
    /// Whether everything is allowed.
    pub fn is_unlimited(&self) -> bool {
        *self == PerSecond::default()
    }
}

impl From<PerSecond> for Limits {
    fn from(given: PerSecond) -> Self {
        Limits {
            bytes: given.bytes.map(|bytes| Rate::smooth(bytes, LEAST_BURST)),
            ops: given.ops.map(|ops| Rate::smooth(ops, 1)),
        }
    }
}

/// The limits of a device or of one of its directions; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes per second.
    pub bytes: Option<Rate>,
    /// Requests or packets per second.
    pub ops: Option<Rate>,
}

/// A bucket of tokens that fills with time.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: i128,
    burst: i128,
    tokens: i128,
    filled: Duration,
}

impl Bucket {
    /// A full bucket. `now` counts from any fixed moment.
    pub fn new(rate: Rate, now: Duration) -> Self {
        let burst = i128::from(rate.burst.max(1)) * UNIT;
        Self { per_second: i128::from(rate.per_second.max(1)), burst, tokens: burst, filled: now }
    }

    /// How long until something is left; zero when it is now.
    pub fn wait(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.filled);
        self.filled = self.filled.max(now);
        // 2^64 nanoseconds (584 years) times 2^64 is the most that this can be, in a sum that has room for 2^127.
        let passed = i128::from(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX));
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(self.per_second)).min(self.burst);
        if self.tokens > 0 {
            return Duration::ZERO;
        }
        let nanos = (1 - self.tokens).unsigned_abs().div_ceil(self.per_second.unsigned_abs());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes `amount`, into debt if need be.
    pub fn charge(&mut self, amount: u64) {
        self.tokens = self.tokens.saturating_sub(i128::from(amount) * UNIT);
    }
}

/// The limits of a device in use, with the timer that says when to go on.
pub struct Limiter {
    bytes: Option<Bucket>,
    ops: Option<Bucket>,
    timer: Option<OwnedFd>,
    armed: bool,
    started: Instant,
}

impl Limiter {
    /// A limiter with full buckets; without limits it has no timer and costs nothing.
    ///
    /// # Errors
    /// When no timer can be made.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let bucket = |rate: Rate| Bucket::new(rate, Duration::ZERO);
        let (bytes, ops) = (limits.bytes.map(bucket), limits.ops.map(bucket));
        let timer = match (&bytes, &ops) {
            (None, None) => None,
            _ => Some(rustix::time::timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?),
        };
        Ok(Self { bytes, ops, timer, armed: false, started: Instant::now() })
    }

    /// Whether a request may start now. If not, the timer is set for when it may.
    pub fn ready(&mut self) -> bool {
        let Some(timer) = &self.timer else { return true };
        if self.armed {
            return false;
        }
        let now = self.started.elapsed();
        let wait = |bucket: &mut Option<Bucket>| bucket.as_mut().map_or(Duration::ZERO, |b| b.wait(now));
        let wait = wait(&mut self.bytes).max(wait(&mut self.ops));
        if wait.is_zero() {
            return true;
        }
        let until =
            Timespec { tv_sec: wait.as_secs().min(1 << 31) as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: until };
        // A timer that cannot be set must not stop the device for ever: then the limit does not hold for this request.
        self.armed = rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec).is_ok();
        !self.armed
    }

    /// Counts one request of `bytes`.
    pub fn charge(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes);
        }
        if let Some(bucket) = &mut self.ops {
            bucket.charge(1);
        }
    }

    /// Whether a request waits for the timer.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// The timer, while a request waits for it.
    pub fn watch(&self, token: u64) -> Option<Watch> {
        let timer = self.timer.as_ref().filter(|_| self.armed)?;
        Some(Watch { fd: timer.as_raw_fd(), token, readable: true, writable: false })
    }

    /// The timer has fired.
    pub fn expired(&mut self) {
        if let Some(timer) = &self.timer {
            // Nothing to read is a timer that has not fired, and then `ready` sets it again.
            let _ = rustix::io::read(timer, &mut [0_u8; 8]);
            self.armed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 10 }, Duration::ZERO);
        for _ in 0..10 {
            assert_eq!(bucket.wait(Duration::ZERO), Duration::ZERO);
            bucket.charge(1);
        }
        assert_eq!(bucket.wait(Duration::ZERO), Duration::from_nanos(1));
        bucket.charge(1);
        let wait = bucket.wait(Duration::ZERO);
        assert!(wait > Duration::from_millis(1) && wait < Duration::from_micros(1001), "{wait:?}");
        assert_eq!(bucket.wait(wait), Duration::ZERO);
    }

    #[test]
    fn a_request_larger_than_the_burst_is_paid_for_afterwards() {
        let mut bucket = Bucket::new(Rate { per_second: 1 << 20, burst: 4096 }, Duration::ZERO);
        bucket.charge(4 << 20);
        let wait = bucket.wait(Duration::ZERO);
        assert!(wait > Duration::from_millis(3990) && wait < Duration::from_millis(4001), "{wait:?}");
    }

    #[test]
    fn without_limits_there_is_no_timer() {
        let mut limiter = Limiter::new(Limits::default()).unwrap();
        limiter.charge(u64::MAX);
        assert!(limiter.ready() && limiter.watch(1).is_none());
    }

    #[test]
    fn a_limiter_that_is_empty_waits_for_its_timer() {
        let rate = Rate { per_second: 200, burst: 1 };
        let mut limiter = Limiter::new(Limits { ops: Some(rate), bytes: None }).unwrap();
        limiter.charge(1 << 30);
        limiter.charge(1 << 30);
        assert!(!limiter.ready());
        let watch = limiter.watch(7).unwrap();
        assert_eq!((watch.token, watch.readable), (7, true));
        let mut poll =
            [rustix::event::PollFd::new(limiter.timer.as_ref().unwrap(), rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut poll, None).unwrap(), 1);
        limiter.expired();
        assert!(limiter.watch(7).is_none() && limiter.ready());
    }

    proptest! {
        /// Whatever is asked for when: a request starts only while less than burst + rate x time was taken.
        #[test]
        fn the_rate_holds(per_second in any::<u64>(), burst in any::<u64>(), asks in prop::collection::vec((any::<u32>(), 0..1u64 << 40), 1..50)) {
            let rate = Rate { per_second: per_second.max(1), burst: burst.max(1) };
            let mut bucket = Bucket::new(rate, Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, 0_u128);
            for (amount, pause) in asks {
                now += Duration::from_nanos(pause);
                if bucket.wait(now).is_zero() {
                    let earned = u128::from(rate.burst) + u128::from(rate.per_second) * now.as_nanos() / 1_000_000_000;
                    prop_assert!(taken <= earned);
                    bucket.charge(u64::from(amount));
                    taken += u128::from(amount);
                }
            }
        }
    }
}
