//! What a virtio device is, apart from how it is reached: a device knows its queues, guest memory and a way to interrupt.
//!
//! ```text
//!   transport (virtio-pci) ── features, config space ──► Device
//!         │ DRIVER_OK                                      │
//!         └── Activation { memory, queues, features } ────► activate
//!   event loop ── ioeventfd of queue n ───────────────────► kick(n)
//!              └─ a file that the device registered ──────► ready(token)
//! ```
//!
//! All devices live on one thread, the event loop's, so a device has no locks and must never block: what can take long
//! is done with non-blocking files or handed to a worker thread that the device owns.

use super::counters::Counters;
use std::os::fd::RawFd;
use std::sync::Arc;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Interrupts the guest. Each implementation maps to one MSI-X vector, injected through its irqfd.
pub trait Interrupt: Send + Sync {
    /// Tells the driver that the used ring of queue `index` has grown.
    fn queue(&self, index: u16);

    /// Tells the driver that the configuration space has changed.
    fn config(&self);
}

/// One queue of an activated device.
pub struct ActiveQueue {
    /// Index of the queue in the device.
    pub index: u16,
    /// The rings, validated against guest memory before each use.
    pub queue: Queue,
    /// Signalled when the driver has kicked; the event loop reads it before it calls [`Device::kick`].
    pub kick: EventFd,
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// All memory that the guest may address in a descriptor: RAM, pmem and DAX windows.
    pub memory: GuestMemoryMmap,
    /// The queues that the driver enabled, by index; `None` for one that it left out.
    pub queues: Vec<Option<ActiveQueue>>,
    /// The features that the driver accepted, a subset of [`Device::features`].
    pub features: u64,
    /// How the guest is interrupted.
    pub interrupt: Arc<dyn Interrupt>,
}

/// A file that the event loop watches for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// The file; stays open while the device is active.
    pub fd: RawFd,
    /// What [`Device::ready`] gets, unique in the device.
    pub token: u64,
    /// Whether to wake for reading.
    pub readable: bool,
    /// Whether to wake for writing.
    pub writable: bool,
}

/// A region of guest physical memory that a device offers (virtio 1.2, 2.10): a DAX window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMemory {
    /// Shared memory id of the device type's section.
    pub id: u8,
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// A device that cannot go on; the transport sets DEVICE_NEEDS_RESET and the guest may reset it.
#[derive(Debug, thiserror::Error)]
#[error("{device}: {reason}")]
pub struct DeviceError {
    /// The device's name, for the log.
    pub device: String,
    /// While doing what, and why.
    pub reason: String,
}

/// A virtio device.
///
/// The guest is hostile: every length, address and value that comes from a queue or from the configuration space may be
/// anything. A device answers nonsense with an error status in the request or with [`DeviceError`], never with a panic, and
/// never logs more than a bounded number of lines for it.
pub trait Device: Send {
    /// For the log and statistics, for example `block mini-os`.
    fn name(&self) -> &str;

    /// Device type of virtio 1.2, section 5.
    fn kind(&self) -> u32;

    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// Features offered, besides VIRTIO_F_VERSION_1, which the transport adds.
    fn features(&self) -> u64;

    /// Reads the device's configuration space. Bytes beyond its end stay zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes it. Ignored where the device has nothing to write.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The window that it offers to the guest, if any.
    fn shared_memory(&self) -> Option<SharedMemory> {
        None
    }

    /// What it has done so far, if it counts.
    fn counters(&self) -> Option<Arc<Counters>> {
        None
    }

    /// The driver is ready (DRIVER_OK).
    ///
    /// # Errors
    /// When the device cannot work with these queues.
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError>;

    /// The driver has kicked queue `index`.
    ///
    /// # Errors
    /// When the queue's rings are broken.
    fn kick(&mut self, index: u16) -> Result<(), DeviceError>;

    /// The files to watch now; asked again after every call into the device.
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    /// A watched file is ready.
    ///
    /// # Errors
    /// When the device cannot go on.
    fn ready(&mut self, token: u64) -> Result<(), DeviceError> {
        let _ = token;
        Ok(())
    }

    /// The host takes back what is behind the device, at once: what the driver asks for from now on fails, what is under way ends as it
    /// would, and no request stays without an answer. Only for devices that can be taken away.
    ///
    /// # Errors
    /// When a queue's rings are broken.
    fn withdraw(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The driver resets the device: it forgets its queues, and is as new.
    fn reset(&mut self);
}
