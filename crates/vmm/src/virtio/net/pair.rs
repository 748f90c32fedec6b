//! A pair of queues, and the tap's queue that belongs to it.

use super::Health;
use super::rx::Receive;
use super::tx::Transmit;
use crate::virtio::counters::Counters;
use crate::virtio::device::{DeviceError, Watch};
use crate::virtio::rate_limit::Limiter;
use crate::virtio::ring::Ring;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// The queues of a pair.
pub struct Rings {
    /// To the guest.
    pub receive: Ring,
    /// From the guest.
    pub transmit: Ring,
}

/// What all pairs of a device share.
pub struct Common {
    /// What comes in.
    pub rx: Limiter,
    /// What goes out.
    pub tx: Limiter,
    /// Of the tap.
    pub health: Health,
}

/// A pair of queues.
pub struct Pair {
    /// `None` once it was taken away.
    pub tap: Option<File>,
    /// While a driver has them.
    pub rings: Option<Rings>,
    rx: Receive,
    tx: Transmit,
}

impl Pair {
    /// A pair without a driver.
    pub fn new(tap: File, counters: &Arc<Counters>) -> Self {
        let (rx, tx) = (Receive::new(Arc::clone(counters)), Transmit::new(Arc::clone(counters)));
        Self { tap: Some(tap), rings: None, rx, tx }
    }

    /// Begins afresh with these queues; `mergeable` is whether a packet may take several buffers.
    pub fn start(&mut self, rings: Option<Rings>, mergeable: bool) {
        self.rings = rings;
        self.rx.start(mergeable);
        self.tx.unblock();
    }

    /// Moves packets, in those directions that are asked for.
    ///
    /// # Errors
    /// When a ring is broken.
    pub fn process(&mut self, common: &mut Common, rx: bool, tx: bool) -> Result<(), DeviceError> {
        let (Some(rings), Some(tap)) = (&mut self.rings, &self.tap) else { return Ok(()) };
        let (tap, health) = (tap.as_fd(), &mut common.health);
        if rx {
            self.rx.process(&mut rings.receive, tap, &mut common.rx, health)?;
        }
        if tx {
            self.tx.process(&mut rings.transmit, tap, &mut common.tx, health)?;
        }
        Ok(())
    }

    /// Drops what the guest sends here: the driver does not use this pair, or there is no tap any more.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn discard(&mut self) -> Result<(), DeviceError> {
        self.rx.drop_held();
        self.tx.unblock();
        self.rings.as_mut().map_or(Ok(()), |rings| self.tx.discard(&mut rings.transmit))
    }

    /// The tap is ready: whether it had no room.
    pub fn unblock(&mut self) -> bool {
        self.tx.unblock()
    }

    /// What to wait for, while the limit of what comes in is `reached` or not.
    pub fn watch(&self, token: u64, reached: bool) -> Option<Watch> {
        // One file can be watched once, so both directions are one watch.
        let (readable, writable) = (self.rx.wants_tap() && !reached, self.tx.wants_tap());
        let fd = self.tap.as_ref()?.as_raw_fd();
        (readable || writable).then_some(Watch { fd, token, readable, writable })
    }
}
