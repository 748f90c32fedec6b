//! Virtio: what a device is, the devices, and how the guest reaches them.

pub mod balloon;
pub mod block;
pub mod config;
pub mod console;
pub mod counters;
pub mod device;
pub mod fs;
pub mod guest_io;
pub mod mem;
#[cfg(any(test, feature = "fuzzing"))]
pub mod mock;
pub mod net;
pub mod pmem;
pub mod rate_limit;
pub mod ring;
pub mod rng;
pub mod spares;
pub mod transport;
pub mod vsock;
pub mod workers;
