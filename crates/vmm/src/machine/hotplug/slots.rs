//! Slots: places for devices that may come while the machine runs.
//!
//! ```text
//!   --hotplug disk=2,share ─► SlotCounts ─► jail: filters, capabilities that such devices will need
//!                                      └──► Slots: a slot for each, with its waiting threads
//!   add-disk    ─► Slots::take ─► Slot ─┐
//!   remove      ─► the Slot is dropped ─┴─► free again
//! ```
//!
//! Outside of the jail nothing has to be prepared: there are as many slots as the bus has places, and threads are new.

use super::super::MachineError;
use super::super::devices::{DISK_THREADS, OpenDevice, SHARE_THREADS, Threads};
use crate::jail::{Jail, Role};
use crate::virtio::fs::share::{self, Budget};
use crate::virtio::spares::Spares;
use crate::virtio::workers::ThreadStart;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most slots of one kind: a bus has 31 places.
const MAX: usize = 31;

/// What a slot is for. One for a read-only share has threads that cannot write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A disk, read-only or not.
    Disk,
    /// An image, however it is shared.
    Pmem,
    /// A directory.
    Share {
        /// Nothing is ever changed.
        readonly: bool,
    },
    /// A network interface.
    Net,
}

/// All kinds.
pub const KINDS: [Kind; 5] =
    [Kind::Disk, Kind::Pmem, Kind::Share { readonly: false }, Kind::Share { readonly: true }, Kind::Net];

impl Kind {
    /// As in `--hotplug`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Disk => "disk",
            Kind::Pmem => "pmem",
            Kind::Share { readonly: false } => "share",
            Kind::Share { readonly: true } => "share-ro",
            Kind::Net => "net",
        }
    }

    /// What a device needs; `None` for one that cannot come later.
    pub fn of(device: &OpenDevice) -> Option<Self> {
        match device {
            OpenDevice::Block { .. } => Some(Kind::Disk),
            OpenDevice::Pmem { .. } => Some(Kind::Pmem),
            OpenDevice::Share { readonly, .. } => Some(Kind::Share { readonly: *readonly }),
            OpenDevice::Net { .. } => Some(Kind::Net),
            _ => None,
        }
    }

    /// The threads of one device: how many, and what they may do.
    fn threads(self) -> Option<(usize, Role)> {
        match self {
            Kind::Disk => Some((DISK_THREADS, Role::Disk)),
            Kind::Pmem => Some((1, Role::Flush)),
            Kind::Share { readonly } => Some((SHARE_THREADS, Role::Share { readonly })),
            Kind::Net => None,
        }
    }
}

/// How many slots of each kind: `--hotplug disk=2,share`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotCounts(BTreeMap<Kind, usize>);

impl SlotCounts {
    /// So many of `kind`.
    pub fn count(&self, kind: Kind) -> usize {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|count| *count == 0)
    }

    /// Whether a share may come.
    pub fn shares(&self) -> bool {
        [false, true].into_iter().any(|readonly| self.count(Kind::Share { readonly }) > 0)
    }
}

impl FromStr for SlotCounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut counts = SlotCounts::default();
        for part in text.split(',') {
            let (name, count) = part.split_once('=').unwrap_or((part, "1"));
            let kind = KINDS.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| format!("{name:?} is none of disk, pmem, share, share-ro, net"))?;
            let count = count.parse().ok().filter(|count| *count <= MAX);
            let count =
                count.ok_or_else(|| format!("{part:?}: write for example {name}=2, at most {MAX}"))?;
            if counts.0.insert(kind, count).is_some() {
                return Err(format!("{name} is named twice"));
            }
        }
        Ok(counts)
    }
}

impl fmt::Display for SlotCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(kind, count)| format!("{}={count}", kind.name())).collect();
        f.write_str(&parts.join(","))
    }
}

/// A slot that is taken, until this is dropped.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// The slots of one kind in a jail.
struct Prepared {
    free: Arc<AtomicUsize>,
    threads: Option<ThreadStart>,
}

/// All slots.
pub struct Slots {
    jail: Jail,
    /// In a jail; nothing where there is none.
    prepared: BTreeMap<Kind, Prepared>,
    /// `/proc/self/fd` for shares.
    proc: Option<OwnedFd>,
    budget: Budget,
}

impl Slots {
    /// Starts the threads of all slots, restricted by `jail`.
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor.
    pub fn new(counts: &SlotCounts, jail: &Jail) -> Result<Self, MachineError> {
        let failed = |e: std::io::Error| MachineError::Device {
            device: "that may come later".to_string(),
            reason: e.to_string(),
        };
        let proc =
            jail.descriptors().map(|proc| proc.try_clone().map(Arc::new)).transpose().map_err(failed)?;
        let mut prepared = BTreeMap::new();
        for (kind, count) in counts.0.iter().filter(|_| jail.is_shut()) {
            let threads = match kind.threads() {
                None => None,
                Some((each, role)) => {
                    let proc = proc.clone().filter(|_| matches!(role, Role::Share { .. }));
                    let before = move || {
                        if let Some(proc) = &proc {
                            share::enter_thread(proc.as_fd());
                        }
                    };
                    let name = format!("spare {}", kind.name());
                    let spares = Spares::new(&name, each * count, &jail.thread(role), before);
                    Some(Arc::new(spares.map_err(failed)?) as ThreadStart)
                }
            };
            prepared.insert(*kind, Prepared { free: Arc::new(AtomicUsize::new(*count)), threads });
        }
        let proc = jail.descriptors().map(AsFd::as_fd).map(|fd| fd.try_clone_to_owned());
        let proc = proc.transpose().map_err(failed)?;
        Ok(Slots { jail: jail.clone(), prepared, proc, budget: Budget::all() })
    }

    /// A slot for `device`, which is made fit for it, and where its threads come from.
    ///
    /// # Errors
    /// When none is free, in words.
    pub fn take(&self, device: &mut OpenDevice) -> Result<(Option<Slot>, Threads), String> {
        if !self.jail.is_shut() {
            return Ok((None, Threads::New(self.jail.clone())));
        }
        let kind = Kind::of(device).ok_or("such a device cannot come later")?;
        let name = kind.name();
        let Some(Prepared { free, threads }) = self.prepared.get(&kind) else {
            return Err(format!(
                "this machine is in its jail and was started without a slot for it; start it with --hotplug {name}=N"
            ));
        };
        let taken = free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(1));
        let slot = taken.map(|_| Slot(Arc::clone(free))).map_err(|_| {
            format!(
                "all slots of kind {name} are taken; remove such a device, or start the machine with more (--hotplug {name}=N)"
            )
        })?;
        if let OpenDevice::Share { root, proc, readonly, .. } = device {
            super::opened::check_mount(root, *readonly)?;
            let own = self.proc.as_ref().map(OwnedFd::try_clone).transpose();
            *proc = own.map_err(|e| format!("sharing a directory: {e}"))?;
        }
        Ok((Some(slot), Threads::Waiting(threads.clone(), self.budget)))
    }

    /// How many are free of each kind; `None` where nothing has to be prepared.
    pub fn free(&self) -> Option<BTreeMap<String, usize>> {
        let count = |(kind, prepared): (&Kind, &Prepared)| {
            (kind.name().to_string(), prepared.free.load(Ordering::Acquire))
        };
        self.jail.is_shut().then(|| self.prepared.iter().map(count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let counts: SlotCounts = "disk=2,share-ro,net=0".parse().unwrap();
        assert_eq!((counts.count(Kind::Disk), counts.count(Kind::Share { readonly: true })), (2, 1));
        assert_eq!(counts.count(Kind::Pmem), 0);
        assert!(counts.shares() && !counts.is_empty());
        assert!("net=0".parse::<SlotCounts>().unwrap().is_empty());
        assert_eq!(counts.to_string().parse(), Ok(counts));
        for bad in ["", "disk=", "disk=-1", "disk=32", "disk,disk", "floppy", "disk=2,"] {
            assert!(bad.parse::<SlotCounts>().is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_jail_there_is_always_room() {
        let slots = Slots::new(&SlotCounts::default(), &Jail::none()).unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut disk =
            OpenDevice::Block { file, serial: "d".to_string(), readonly: false, limits: Default::default() };
        let (slot, threads) = slots.take(&mut disk).unwrap();
        assert!(slot.is_none() && matches!(threads, Threads::New(_)) && slots.free().is_none());
    }
}
