//! Entropy: virtio-rng (virtio 1.2, 5.4).
//!
//! ```text
//!   kick ─► rate limit ─► request::fill: getrandom(2), at most 4 KiB a request ─► used ring
//! ```
//!
//! The host's generator never blocks once it is seeded, and costs time of the host: so its bytes per second are limited, and a
//! request gets no more than a driver of Linux ever asks for at once. A driver must cope with less than it asked for (5.4.6.1).

pub mod request;
#[cfg(test)]
mod tests;

use super::counters::Counters;
use super::device::{Activation, Device, DeviceError, Watch};
use super::rate_limit::{Limiter, Limits, Rate};
use super::ring::{BUDGET, RING_FEATURES, Ring};
use std::io;
use std::sync::Arc;

const QUEUE_SIZE: u16 = 64;
const TOKEN_LIMIT: u64 = 0;

/// What a guest gets when nothing else is said: 1 MiB/s, which seeds a kernel a thousand times a second.
pub const DEFAULT_LIMITS: Limits =
    Limits { bytes: Some(Rate { per_second: 1 << 20, burst: 256 << 10 }), ops: None };

/// The device.
pub struct Rng {
    limiter: Limiter,
    counters: Arc<Counters>,
    active: Option<Ring>,
}

impl Rng {
    /// A generator with `limits`, usually [`DEFAULT_LIMITS`].
    ///
    /// # Errors
    /// When no timer can be made.
    pub fn new(limits: Limits) -> io::Result<Self> {
        Ok(Self { limiter: Limiter::new(limits)?, counters: Arc::default(), active: None })
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let Some(ring) = &mut self.active else { return Ok(()) };
        let mut left = BUDGET;
        while left > 0 && self.limiter.ready() {
            left -= 1;
            match ring.next()? {
                Some(chain) => {
                    let written = request::fill(ring.memory(), &chain.writable);
                    // A request for nothing costs something too.
                    self.limiter.charge(u64::from(written).max(64));
                    ring.complete(chain.head, written)?;
                }
                None if ring.rearm()? => {}
                None => break,
            }
        }
        if left == 0 {
            ring.kick_again();
        }
        ring.signal()
    }
}

impl Device for Rng {
    fn name(&self) -> &str {
        "rng"
    }

    fn kind(&self) -> u32 {
        4
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        let queue = super::config::required_queue("rng", &mut queues, 0)?;
        let ring = Ring::new("rng", queue, features, &memory, &interrupt)?;
        self.active = Some(ring.counted(&self.counters));
        Ok(())
    }

    fn kick(&mut self, _: u16) -> Result<(), DeviceError> {
        self.process()
    }

    fn watches(&self) -> Vec<Watch> {
        self.limiter.watch(TOKEN_LIMIT).filter(|_| self.active.is_some()).into_iter().collect()
    }

    fn ready(&mut self, _: u64) -> Result<(), DeviceError> {
        self.limiter.expired();
        self.process()
    }

    fn reset(&mut self) {
        self.active = None;
    }
}
