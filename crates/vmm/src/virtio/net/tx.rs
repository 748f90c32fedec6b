//! From the guest to the tap.

use super::{HEADER, Health, MAX_PACKET};
use crate::virtio::counters::{Counters, add};
use crate::virtio::device::DeviceError;
use crate::virtio::guest_io::{Iovecs, MAX_IOVECS};
use crate::virtio::rate_limit::Limiter;
use crate::virtio::ring::{BUDGET, Chain, Ring};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The sending side.
pub struct Transmit {
    counters: Arc<Counters>,
    full: bool,
}

impl Transmit {
    /// Sends nothing yet.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters, full: false }
    }

    /// Whether a packet waits for the tap to be writable.
    pub fn wants_tap(&self) -> bool {
        self.full
    }

    /// The tap may have room again; whether it had none.
    pub fn unblock(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }

    /// Sends what the guest has, until the tap is full or the limit is reached.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn process(
        &mut self,
        ring: &mut Ring,
        tap: BorrowedFd<'_>,
        limiter: &mut Limiter,
        health: &mut Health,
    ) -> Result<(), DeviceError> {
        let mut left = BUDGET;
        while left > 0 && !self.full && !health.dead {
            if !limiter.ready() {
                add(&self.counters.throttled, 1);
                break;
            }
            let Some(chain) = ring.next()? else {
                if ring.rearm()? {
                    continue;
                }
                break;
            };
            left -= 1;
            match send(ring, &chain, tap) {
                Ok(()) => {
                    health.good();
                    limiter.charge(chain.readable.len());
                    add(&self.counters.requests, 1);
                    add(&self.counters.bytes_from_guest, chain.readable.len() - HEADER as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.full = true;
                    ring.undo();
                    break;
                }
                Err(error) => {
                    // A packet that the guest made wrong says nothing about the tap.
                    if error.kind() != io::ErrorKind::InvalidInput
                        && error.raw_os_error() != Some(libc::EFAULT)
                    {
                        health.bad(&error);
                    }
                    limiter.charge(HEADER as u64);
                    add(&self.counters.errors, 1);
                }
            }
            ring.complete(chain.head, 0)?;
        }
        if left == 0 {
            ring.kick_again();
        }
        ring.signal()
    }
}

impl Transmit {
    /// Drops what the guest has: there is no tap any more, or this queue is not in use.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn discard(&mut self, ring: &mut Ring) -> Result<(), DeviceError> {
        for _ in 0..BUDGET {
            match ring.next()? {
                Some(chain) => {
                    add(&self.counters.errors, 1);
                    ring.complete(chain.head, 0)?;
                }
                None if ring.rearm()? => {}
                None => return ring.signal(),
            }
        }
        ring.kick_again();
        ring.signal()
    }
}

/// Sends one packet; one that cannot be is dropped, as by any network.
fn send(ring: &Ring, chain: &Chain, tap: BorrowedFd<'_>) -> io::Result<()> {
    if !(HEADER as u64..=MAX_PACKET as u64).contains(&chain.readable.len()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let iovecs = Iovecs::of(ring.memory(), &chain.readable)?;
    if iovecs.pieces() > MAX_IOVECS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    iovecs.write(tap).map(drop)
}
