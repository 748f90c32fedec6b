//! What a device has done so far: read by the control socket while the event loop counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one device. Each is exact; several read one after the other may be of slightly different moments.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests or packets done.
    pub requests: AtomicU64,
    /// Bytes that the guest got.
    pub bytes_to_guest: AtomicU64,
    /// Bytes that the guest gave.
    pub bytes_from_guest: AtomicU64,
    /// Requests that failed or packets that were dropped.
    pub errors: AtomicU64,
    /// How often the rate limit made the guest wait.
    pub throttled: AtomicU64,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
