//! Network: virtio-net (virtio 1.2, 5.1) on a tap that the launcher opened and prepared ([`tap`]).
//!
//! ```text
//!   tap ── readable, and the guest has buffers ─► readv ─► rx queue (0), one packet over as many buffers as it takes
//!   tap ◄── writev ◄── tx queue (1); a full tap leaves the packet in the queue until it is writable
//! ```
//!
//! Packets go between the tap and guest memory with the virtio header as the tap has it, so checksums and segmentation are left to
//! whoever does them last: between two guests or a guest and its host nobody does. No control queue: what the driver
//! accepted decides, once, what the tap may hand out.

pub mod rx;
pub mod tap;
#[cfg(test)]
mod tests;
pub mod tx;

use super::counters::Counters;
use super::device::{Activation, Device, DeviceError, Interrupt, Watch};
use super::rate_limit::{Limiter, Limits};
use super::ring::{RING_FEATURES, Ring};
use rx::Receive;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use tx::Transmit;

/// `struct virtio_net_hdr` with `num_buffers` (5.1.6), in bytes.
pub const HEADER: usize = 12;

/// Largest packet with its header in bytes (5.1.6.3.1: 65562).
pub const MAX_PACKET: usize = 65550 + HEADER;

/// Errors in a row after which a tap counts as gone.
const MAX_ERRORS: u32 = 64;

const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
/// VIRTIO_NET_F_MRG_RXBUF
pub const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
/// VIRTIO_NET_S_LINK_UP
const LINK_UP: u16 = 1;

const QUEUE_SIZE: u16 = 256;
const TOKEN_TAP: u64 = 0;
const TOKEN_RX_LIMIT: u64 = 1;
const TOKEN_TX_LIMIT: u64 = 2;

/// How a network device is to be.
#[derive(Debug, Clone, Default)]
pub struct NetOptions {
    /// For the log.
    pub name: String,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Largest packet without link header in bytes, when the guest is to be told.
    pub mtu: Option<u16>,
    /// What comes in per second.
    pub rx: Limits,
    /// What goes out per second.
    pub tx: Limits,
}

/// Whether a tap still answers.
#[derive(Debug, Default)]
pub struct Health {
    errors: u32,
    dead: bool,
}

impl Health {
    fn good(&mut self) {
        self.errors = 0;
    }

    /// Counts an error; a tap that was deleted, or fails again and again, is dead.
    fn bad(&mut self, error: &io::Error) {
        self.errors += 1;
        self.dead |= self.errors >= MAX_ERRORS || error.raw_os_error() == Some(libc::EBADFD);
    }
}

struct Active {
    receive: Ring,
    transmit: Ring,
    interrupt: Arc<dyn Interrupt>,
}

/// The device.
pub struct Net {
    name: String,
    mac: [u8; 6],
    mtu: Option<u16>,
    /// `None` once it was taken away.
    tap: Option<File>,
    pub(super) set_offload: fn(BorrowedFd<'_>, u32) -> io::Result<()>,
    /// What the tap is still to be told, by the event loop: the thread that activates may have no right to.
    offload: Option<u32>,
    rx: Receive,
    tx: Transmit,
    health: Health,
    counters: Arc<Counters>,
    active: Option<Active>,
}

impl Net {
    /// A network device on `tap`.
    ///
    /// # Errors
    /// When no timer can be made for the limits.
    pub fn new(tap: File, options: &NetOptions) -> io::Result<Self> {
        let counters = Arc::<Counters>::default();
        Ok(Self {
            name: format!("net {}", options.name),
            mac: options.mac,
            mtu: options.mtu,
            tap: Some(tap),
            set_offload: tap::set_offload,
            offload: None,
            rx: Receive::new(Limiter::new(options.rx)?, Arc::clone(&counters)),
            tx: Transmit::new(Limiter::new(options.tx)?, Arc::clone(&counters)),
            health: Health::default(),
            counters,
            active: None,
        })
    }

    fn process(&mut self, rx: bool, tx: bool) -> Result<(), DeviceError> {
        let Some(active) = self.active.as_mut() else { return Ok(()) };
        let Some(tap) = self.tap.as_ref() else { return self.tx.discard(&mut active.transmit) };
        if self.health.dead {
            return Ok(());
        }
        if let Some(flags) = self.offload.take() {
            (self.set_offload)(tap.as_fd(), flags).map_err(|error| DeviceError {
                device: self.name.clone(),
                reason: format!("while setting the tap's offloads to {flags:#x}: {error}"),
            })?;
        }
        if rx {
            self.rx.process(&mut active.receive, tap.as_fd(), &mut self.health)?;
        }
        if tx {
            self.tx.process(&mut active.transmit, tap.as_fd(), &mut self.health)?;
        }
        if self.health.dead {
            // The guest sees its cable pulled.
            active.interrupt.config();
        }
        Ok(())
    }
}

/// `TUN_F_*` for what the driver can take. Segments come without checksums, so nothing goes without that (5.1.3.1).
fn offload(features: u64) -> u32 {
    if features & F_GUEST_CSUM == 0 {
        return 0;
    }
    let known = [
        (F_GUEST_CSUM, libc::TUN_F_CSUM),
        (F_GUEST_TSO4, libc::TUN_F_TSO4),
        (F_GUEST_TSO6, libc::TUN_F_TSO6),
    ];
    let flags =
        known.iter().filter(|(feature, _)| features & feature != 0).fold(0, |all, (_, flag)| all | flag);
    let segments = features & (F_GUEST_TSO4 | F_GUEST_TSO6) != 0;
    flags | if segments && features & F_GUEST_ECN != 0 { libc::TUN_F_TSO_ECN } else { 0 }
}

impl Device for Net {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> u32 {
        1
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let to_host = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
        let to_guest = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_MRG_RXBUF;
        RING_FEATURES | to_host | to_guest | F_MAC | F_STATUS | if self.mtu.is_some() { F_MTU } else { 0 }
    }

    /// `struct virtio_net_config` (5.1.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&if self.health.dead { 0 } else { LINK_UP }.to_le_bytes());
        config[8..10].copy_from_slice(&1_u16.to_le_bytes());
        config[10..12].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        super::config::read(&config, offset, data);
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        let mut ring = |index| {
            let queue = super::config::required_queue(&self.name, &mut queues, index)?;
            Ring::new(&self.name, queue, features, &memory, &interrupt)
        };
        self.active =
            Some(Active { receive: ring(0)?, transmit: ring(1)?, interrupt: Arc::clone(&interrupt) });
        self.offload = Some(offload(features));
        self.rx.start(features & F_MRG_RXBUF != 0);
        Ok(())
    }

    fn kick(&mut self, index: u16) -> Result<(), DeviceError> {
        self.process(index == 0, index == 1)
    }

    fn watches(&self) -> Vec<Watch> {
        let Some(tap) = self.tap.as_ref().filter(|_| self.active.is_some() && !self.health.dead) else {
            return Vec::new();
        };
        let limits = [self.rx.limiter.watch(TOKEN_RX_LIMIT), self.tx.limiter.watch(TOKEN_TX_LIMIT)];
        // One file can be watched once, so both directions are one watch.
        let (readable, writable) = (self.rx.wants_tap(), self.tx.wants_tap());
        let tap = Watch { fd: tap.as_raw_fd(), token: TOKEN_TAP, readable, writable };
        let tap = (readable || writable).then_some(tap);
        limits.into_iter().chain([tap]).flatten().collect()
    }

    fn ready(&mut self, token: u64) -> Result<(), DeviceError> {
        match token {
            TOKEN_RX_LIMIT => {
                self.rx.limiter.expired();
                self.process(true, false)
            }
            TOKEN_TX_LIMIT => {
                self.tx.limiter.expired();
                self.process(false, true)
            }
            _ => {
                let was_full = self.tx.unblock();
                self.process(true, was_full)
            }
        }
    }

    /// The guest sees its cable pulled, and what it sends gets lost.
    fn withdraw(&mut self) -> Result<(), DeviceError> {
        self.tap = None;
        self.health.dead = true;
        if let Some(active) = &self.active {
            active.interrupt.config();
        }
        self.process(false, true)
    }

    fn reset(&mut self) {
        self.active = None;
        self.rx.start(false);
        self.tx.unblock();
        self.health = Health { dead: self.tap.is_none(), ..Health::default() };
    }
}
