//! Memory balloon: virtio-balloon (virtio 1.2, 5.5), by which memory that a guest does not use goes back to the host.
//!
//! ```text
//!   inflate (0)    page numbers ──────────┐
//!   reporting (4)  ranges of free pages ──┴─► pages: RAM only, whole pages ─► madvise: the host has them back
//!   deflate (1)    given back at once: the guest's next touch brings a fresh page
//!   statistics (2) the driver's buffer waits here until somebody asks ─► BalloonControl
//!   hints (3)      never used; see below
//! ```
//!
//! Reporting is on by default: a guest tells what it has freed, unasked, and the host's memory shrinks with it.
//!
//! Linux numbers the queues without gaps for features that were not offered, the specification with gaps. Offering all up to
//! reporting makes both agree, so free page hints (3) are offered too; without a command they do nothing (5.5.6.5). And whoever
//! accepts fewer of them: the queues that are enabled, in order, belong to the features that were accepted, in order.

pub mod control;
pub mod pages;
#[cfg(test)]
mod tests;

use super::device::{Activation, Device, DeviceError, Interrupt, Watch};
use super::guest_io::Backing;
use super::ring::{BUDGET, Chain, RING_FEATURES, Ring};
use control::{BalloonControl, Shared};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// VIRTIO_BALLOON_F_STATS_VQ
const F_STATS: u64 = 1 << 1;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_FREE_PAGE_HINT
const F_FREE_PAGE_HINT: u64 = 1 << 3;
/// VIRTIO_BALLOON_F_PAGE_REPORTING
const F_REPORTING: u64 = 1 << 5;

const QUEUE_SIZE: u16 = 128;
/// `actual` in `struct virtio_balloon_config` (5.5.4).
const ACTUAL: u64 = 4;
const TOKEN_CONTROL: u64 = 0;

/// A range of guest RAM whose pages may go back to the host, and what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ram {
    /// Guest physical addresses.
    pub range: Range<u64>,
    /// What backs them.
    pub backing: Backing,
}

/// How a balloon is to be.
#[derive(Debug, Clone)]
pub struct BalloonOptions {
    /// All RAM. What is not in it (pmem, DAX windows, mapped kernel segments) is never given away.
    pub ram: Vec<Ram>,
    /// Whether the guest reports free pages by itself.
    pub reporting: bool,
    /// Whether the guest takes pages back before it kills a process for want of memory.
    pub deflate_on_oom: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Hints,
    Reporting,
}

struct Active {
    /// Each ring with its index and what it is for.
    rings: Vec<(u16, Role, Ring)>,
    interrupt: Arc<dyn Interrupt>,
    /// The driver's buffer for statistics, which it gets back when new ones are wanted.
    statistics: Option<Chain>,
    wanted: bool,
}

/// The device.
pub struct Balloon {
    options: BalloonOptions,
    shared: Arc<Shared>,
    target: u32,
    active: Option<Active>,
}

impl Balloon {
    /// A balloon and what it is controlled with.
    ///
    /// # Errors
    /// When no eventfd can be made.
    pub fn new(options: BalloonOptions) -> io::Result<(Self, BalloonControl)> {
        let shared = Arc::new(Shared::new()?);
        let control = BalloonControl::new(Arc::clone(&shared));
        Ok((Self { options, shared, target: 0, active: None }, control))
    }

    fn process(&mut self, index: u16) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some((_, role, ring)) = active.rings.iter_mut().find(|(ring, ..)| *ring == index) else {
            return Ok(());
        };
        let mut left = BUDGET;
        while left > 0 {
            let Some(chain) = ring.next()? else {
                if ring.rearm()? {
                    continue;
                }
                break;
            };
            left -= 1;
            match role {
                Role::Inflate => {
                    let freed = pages::inflate(ring.memory(), &chain.readable, &self.options.ram);
                    self.shared.count_freed(freed);
                }
                Role::Reporting => {
                    let freed = pages::report(ring.memory(), &chain.writable, &self.options.ram);
                    self.shared.count_freed(freed);
                }
                Role::Statistics => {
                    self.shared.take_statistics(ring.memory(), &chain.readable);
                    // There should be one buffer only; of more, the last one counts (5.5.6.3).
                    if let Some(older) = active.statistics.replace(chain) {
                        ring.complete(older.head, 0)?;
                    }
                    continue;
                }
                Role::Deflate | Role::Hints => {}
            }
            ring.complete(chain.head, 0)?;
        }
        if left == 0 {
            ring.kick_again();
        }
        ring.signal()?;
        self.answer_statistics()
    }

    /// Gives the driver its buffer back if somebody wants new statistics; it fills it and offers it again.
    fn answer_statistics(&mut self) -> Result<(), DeviceError> {
        let Some(active) = self.active.as_mut().filter(|active| active.wanted) else { return Ok(()) };
        let Some((_, _, ring)) = active.rings.iter_mut().find(|(_, role, _)| *role == Role::Statistics)
        else {
            return Ok(());
        };
        if let Some(chain) = active.statistics.take() {
            active.wanted = false;
            ring.complete(chain.head, 0)?;
            ring.signal()?;
        }
        Ok(())
    }
}

impl Device for Balloon {
    fn name(&self) -> &str {
        "balloon"
    }

    fn kind(&self) -> u32 {
        5
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 5][..if self.options.reporting { 5 } else { 3 }]
    }

    fn features(&self) -> u64 {
        let reporting = if self.options.reporting { F_FREE_PAGE_HINT | F_REPORTING } else { 0 };
        let on_oom = if self.options.deflate_on_oom { F_DEFLATE_ON_OOM } else { 0 };
        RING_FEATURES | F_STATS | reporting | on_oom
    }

    /// `struct virtio_balloon_config` (5.5.4); its command for hints stays 0, stop.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        config[..4].copy_from_slice(&self.target.to_le_bytes());
        config[4..8].copy_from_slice(&self.shared.actual().to_le_bytes());
        super::config::read(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let Ok(bytes) = <[u8; 4]>::try_from(data)
            && offset == ACTUAL
        {
            self.shared.set_actual(u32::from_le_bytes(bytes));
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, queues, features, interrupt } = activation;
        let optional =
            [(F_STATS, Role::Statistics), (F_FREE_PAGE_HINT, Role::Hints), (F_REPORTING, Role::Reporting)];
        let accepted =
            optional.into_iter().filter(|(feature, _)| features & feature != 0).map(|(_, role)| role);
        let roles = [Role::Inflate, Role::Deflate].into_iter().chain(accepted);
        let mut rings = Vec::new();
        for (queue, role) in queues.into_iter().flatten().zip(roles) {
            rings.push((queue.index, role, Ring::new("balloon", queue, features, &memory, &interrupt)?));
        }
        self.active = Some(Active { rings, interrupt, statistics: None, wanted: false });
        Ok(())
    }

    fn kick(&mut self, index: u16) -> Result<(), DeviceError> {
        self.process(index)
    }

    fn watches(&self) -> Vec<Watch> {
        vec![self.shared.watch(TOKEN_CONTROL)]
    }

    fn ready(&mut self, _: u64) -> Result<(), DeviceError> {
        let wish = self.shared.take_wish();
        if let Some(active) = &mut self.active {
            active.wanted |= wish.statistics;
            if wish.target != self.target {
                active.interrupt.config();
            }
        }
        self.target = wish.target;
        self.answer_statistics()
    }

    fn reset(&mut self) {
        self.active = None;
        self.shared.set_actual(0);
    }
}
