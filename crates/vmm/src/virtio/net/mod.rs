//! Network: virtio-net (virtio 1.2, 5.1) on a tap that the launcher opened and prepared ([`tap`]).
//!
//! ```text
//!   tap ── readable, and the guest has buffers ─► readv ─► rx queue (0), one packet over as many buffers as it takes
//!   tap ◄── writev ◄── tx queue (1); a full tap leaves the packet in the queue until it is writable
//! ```
//!
//! Packets go between the tap and guest memory with the virtio header as the tap has it, so checksums and segmentation are left to
//! whoever does them last: between two guests or a guest and its host nobody does. What the driver accepted decides, once, what the tap
//! may hand out.
//!
//! A tap with several queues gives the device as many pairs (0 and 1, 2 and 3, ...) and behind them a control queue ([`control`]), by which
//! the driver says how many it uses: one in the beginning. Queues of the tap that it does not use are detached. Each pair is served on its
//! own, all by the event loop's thread: several CPUs of the guest can send and receive at once, and what the host does for them is as
//! much as one CPU can do.

pub mod control;
pub mod pair;
#[cfg(test)]
mod queue_tests;
pub mod rx;
pub mod tap;
#[cfg(test)]
mod tests;
pub mod tx;

use super::counters::{Counters, add};
use super::device::{Activation, Device, DeviceError, Interrupt, Watch};
use super::rate_limit::{Limiter, Limits, Rate};
use super::ring::{BUDGET, RING_FEATURES, Ring};
use pair::{Common, Pair, Rings};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Most pairs of queues.
pub const MAX_PAIRS: usize = machine_spec::MAX_QUEUES as usize;

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
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
/// VIRTIO_NET_S_LINK_UP
const LINK_UP: u16 = 1;

const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;

/// How often the driver may have the tap's queues attached and detached, for which the kernel takes a lock that all networks of the host
/// share (rtnl), and waits for its packets to be done.
const CHANGES: Limits = Limits { bytes: None, ops: Some(Rate { per_second: 10, burst: 10 }) };

const TOKEN_RX_LIMIT: u64 = 1;
const TOKEN_TX_LIMIT: u64 = 2;
const TOKEN_CHANGES: u64 = 3;
/// The first pair's; those of the others follow.
const TOKEN_TAPS: u64 = 16;

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
    control: Option<Ring>,
    /// Whether the driver can say how many pairs it uses.
    several: bool,
    interrupt: Arc<dyn Interrupt>,
}

/// The device.
pub struct Net {
    name: String,
    mac: [u8; 6],
    mtu: Option<u16>,
    queue_sizes: Vec<u16>,
    pub(super) set_offload: fn(BorrowedFd<'_>, u32) -> io::Result<()>,
    pub(super) set_queue: fn(BorrowedFd<'_>, bool) -> io::Result<()>,
    /// What the tap is still to be told, by the event loop: the thread that activates may have no right to.
    offload: Option<u32>,
    pairs: Vec<Pair>,
    /// Pairs that the driver uses.
    enabled: usize,
    /// Pairs whose queues of the tap are attached; follows `enabled`.
    attached: usize,
    /// Which pair comes first when all had to wait.
    turn: usize,
    common: Common,
    changes: Limiter,
    counters: Arc<Counters>,
    active: Option<Active>,
}

impl Net {
    /// A network device with a pair of queues for each of `taps`, which are those of one tap, the first attached.
    ///
    /// # Errors
    /// When there are none or too many, or no timer can be made for the limits.
    pub fn new(taps: Vec<File>, options: &NetOptions) -> io::Result<Self> {
        let count = taps.len();
        if !(1..=MAX_PAIRS).contains(&count) {
            return Err(io::Error::other(tap::TapError::Pairs(count)));
        }
        let counters = Arc::<Counters>::default();
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * count];
        queue_sizes.extend((count > 1).then_some(CONTROL_SIZE));
        let (rx, tx) = (Limiter::new(options.rx)?, Limiter::new(options.tx)?);
        Ok(Self {
            name: format!("net {}", options.name),
            mac: options.mac,
            mtu: options.mtu,
            queue_sizes,
            set_offload: tap::set_offload,
            set_queue: tap::set_queue,
            offload: None,
            pairs: taps.into_iter().map(|tap| Pair::new(tap, &counters)).collect(),
            enabled: 1,
            attached: 1,
            turn: 0,
            common: Common { rx, tx, health: Health::default() },
            changes: Limiter::new(if count > 1 { CHANGES } else { Limits::default() })?,
            counters,
            active: None,
        })
    }

    fn is_withdrawn(&self) -> bool {
        self.pairs.iter().any(|pair| pair.tap.is_none())
    }

    fn process(&mut self, index: usize, rx: bool, tx: bool) -> Result<(), DeviceError> {
        if self.active.is_none() {
            return Ok(());
        }
        if self.is_withdrawn() || index >= self.enabled {
            return self.pairs.get_mut(index).map_or(Ok(()), Pair::discard);
        }
        if self.common.health.dead {
            return Ok(());
        }
        self.tell_tap()?;
        self.pairs[index].process(&mut self.common, rx, tx)?;
        if self.common.health.dead
            && let Some(active) = &self.active
        {
            // The guest sees its cable pulled.
            active.interrupt.config();
        }
        Ok(())
    }

    /// All pairs that are in use; another one is the first each time, so that one which takes all that a limit allows leaves something to
    /// the others.
    fn process_all(&mut self, rx: bool, tx: bool) -> Result<(), DeviceError> {
        let first = self.turn;
        self.turn = self.turn.wrapping_add(1);
        (0..self.enabled).try_for_each(|n| self.process((first.wrapping_add(n)) % self.enabled, rx, tx))
    }

    /// Tells the tap what it was not told yet.
    fn tell_tap(&mut self) -> Result<(), DeviceError> {
        let failed = |name: &str, what: &str, error: io::Error| DeviceError {
            device: name.to_string(),
            reason: format!("while setting the tap's {what}: {error}"),
        };
        if let (Some(flags), Some(tap)) = (self.offload.take(), &self.pairs[0].tap) {
            (self.set_offload)(tap.as_fd(), flags)
                .map_err(|error| failed(&self.name, &format!("offloads to {flags:#x}"), error))?;
        }
        // After a reset there are some too many.
        self.attach(self.enabled).map_err(|error| failed(&self.name, "queues", error))
    }

    /// Has the tap give frames to the first `count` pairs only.
    fn attach(&mut self, count: usize) -> io::Result<()> {
        while self.attached != count {
            let more = self.attached < count;
            let index = if more { self.attached } else { self.attached - 1 };
            let tap = self.pairs[index].tap.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            (self.set_queue)(tap.as_fd(), more)?;
            self.attached = if more { index + 1 } else { index };
        }
        Ok(())
    }

    /// The driver wants to use so many pairs; whether it may.
    fn enable(&mut self, count: usize) -> Result<bool, DeviceError> {
        let (before, several) = (self.enabled, self.active.as_ref().is_some_and(|active| active.several));
        let ready =
            self.pairs.get(..count).is_some_and(|pairs| pairs.iter().all(|pair| pair.rings.is_some()));
        if count == 0 || !several || !ready || self.common.health.dead {
            return Ok(false);
        }
        if count == before {
            return Ok(true);
        }
        self.changes.charge(0);
        self.tell_tap()?;
        if self.attach(count).is_err() {
            // One that stays attached gets frames that nobody takes, until the next change.
            let _ = self.attach(before);
            return Ok(false);
        }
        self.enabled = count;
        // Those that are new have buffers already; of those that are not used any more nothing stays.
        (count.min(before)..count.max(before)).try_for_each(|index| self.process(index, true, true))?;
        Ok(true)
    }

    fn control(&mut self) -> Result<(), DeviceError> {
        let Some(mut ring) = self.active.as_mut().and_then(|active| active.control.take()) else {
            return Ok(());
        };
        let result = self.commands(&mut ring);
        if let Some(active) = &mut self.active {
            active.control = Some(ring);
        }
        result
    }

    fn commands(&mut self, ring: &mut Ring) -> Result<(), DeviceError> {
        for _ in 0..BUDGET {
            if !self.changes.ready() {
                add(&self.counters.throttled, 1);
                return ring.signal();
            }
            match ring.next()? {
                Some(chain) => {
                    let wanted = control::pairs(ring.memory(), &chain.readable);
                    // Without a place for the answer nothing is done: the driver could not know.
                    let wanted = wanted.filter(|_| !chain.writable.is_empty());
                    let done = wanted.map_or(Ok(false), |count| self.enable(count))?;
                    if !done {
                        add(&self.counters.errors, 1);
                    }
                    let answer = [if done { control::OK } else { control::ERR }];
                    let written = chain.writable.write(ring.memory(), &answer);
                    ring.complete(chain.head, written as u32)?;
                }
                None if ring.rearm()? => {}
                None => return ring.signal(),
            }
        }
        ring.kick_again();
        ring.signal()
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
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let to_host = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
        let to_guest = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_MRG_RXBUF;
        let mtu = if self.mtu.is_some() { F_MTU } else { 0 };
        let several = if self.pairs.len() > 1 { F_CTRL_VQ | F_MQ } else { 0 };
        RING_FEATURES | to_host | to_guest | F_MAC | F_STATUS | mtu | several
    }

    /// `struct virtio_net_config` (5.1.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&if self.common.health.dead { 0 } else { LINK_UP }.to_le_bytes());
        config[8..10].copy_from_slice(&(self.pairs.len() as u16).to_le_bytes());
        config[10..12].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        super::config::read(&config, offset, data);
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        let mergeable = features & F_MRG_RXBUF != 0;
        // Without VIRTIO_NET_F_MQ there is one pair, and the control queue is the one behind it (5.1.2).
        let several = features & F_MQ != 0;
        let count = if several { self.pairs.len() } else { 1 };
        let ring = |queue| Ring::new(&self.name, queue, features, &memory, &interrupt);
        let mut queue = |index| super::config::required_queue(&self.name, &mut queues, index);
        for (index, pair) in self.pairs[..count].iter_mut().enumerate() {
            let rings = match (queue(2 * index), queue(2 * index + 1)) {
                (Ok(receive), Ok(transmit)) => {
                    Some(Rings { receive: ring(receive)?, transmit: ring(transmit)? })
                }
                (Err(error), _) | (_, Err(error)) if index == 0 => return Err(error),
                // A driver may leave out what it does not use; if it asks for the pair nevertheless, the answer is no.
                _ => None,
            };
            pair.start(rings, mergeable);
        }
        let control = (features & F_CTRL_VQ != 0).then(|| queue(2 * count).and_then(ring)).transpose()?;
        self.active = Some(Active { control, several, interrupt });
        self.offload = Some(offload(features));
        Ok(())
    }

    fn kick(&mut self, index: u16) -> Result<(), DeviceError> {
        let behind = match &self.active {
            Some(active) if active.several => 2 * self.pairs.len(),
            _ => 2,
        };
        match usize::from(index) {
            index if index < behind => self.process(index / 2, index % 2 == 0, index % 2 == 1),
            index if index == behind => self.control(),
            _ => Ok(()),
        }
    }

    fn watches(&self) -> Vec<Watch> {
        if self.active.is_none() {
            return Vec::new();
        }
        let changes = self.changes.watch(TOKEN_CHANGES);
        if self.common.health.dead {
            return changes.into_iter().collect();
        }
        let Common { rx, tx, .. } = &self.common;
        let limits = [rx.watch(TOKEN_RX_LIMIT), tx.watch(TOKEN_TX_LIMIT), changes];
        let reached = rx.is_armed();
        let taps = self.pairs[..self.enabled].iter().zip(TOKEN_TAPS..);
        limits
            .into_iter()
            .flatten()
            .chain(taps.filter_map(|(pair, token)| pair.watch(token, reached)))
            .collect()
    }

    fn ready(&mut self, token: u64) -> Result<(), DeviceError> {
        match token {
            TOKEN_RX_LIMIT => {
                self.common.rx.expired();
                self.process_all(true, false)
            }
            TOKEN_TX_LIMIT => {
                self.common.tx.expired();
                self.process_all(false, true)
            }
            TOKEN_CHANGES => {
                self.changes.expired();
                self.control()
            }
            _ => {
                let index = token.saturating_sub(TOKEN_TAPS) as usize;
                let was_full = self.pairs.get_mut(index).is_some_and(Pair::unblock);
                self.process(index, true, was_full)
            }
        }
    }

    /// The guest sees its cable pulled, and what it sends gets lost.
    fn withdraw(&mut self) -> Result<(), DeviceError> {
        self.pairs.iter_mut().for_each(|pair| pair.tap = None);
        self.common.health.dead = true;
        if let Some(active) = &self.active {
            active.interrupt.config();
        }
        (0..self.pairs.len()).try_for_each(|index| self.process(index, false, true))
    }

    fn reset(&mut self) {
        self.active = None;
        self.enabled = 1;
        self.pairs.iter_mut().for_each(|pair| pair.start(None, false));
        self.common.health = Health { dead: self.is_withdrawn(), ..Health::default() };
    }
}
