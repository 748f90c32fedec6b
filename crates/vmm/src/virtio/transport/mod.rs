//! Virtio over PCI, modern interface only (virtio 1.2, 4.1): what a driver sees of a [`Device`].
//!
//! ```text
//!   BAR 0, ports, 256 bytes   00 common configuration   40 doorbells, 2 bytes each   80 device configuration   FC ISR
//!   BAR 1, memory, 4 KiB      MSI-X table and pending bits
//!   in place of BAR 2         shared memory window (DAX), if the device has one; fixed, by an Enhanced Allocation capability
//! ```
//!
//! Registers are ports and not memory, because an exit for a port tells KVM all it needs, where an exit for memory makes it
//! fetch and decode the instruction. Doorbells are ioeventfds: a kick never leaves the kernel on the vCPU's thread.
//!
//! State: reset → ACKNOWLEDGE | DRIVER → FEATURES_OK → DRIVER_OK (the device is activated) → reset. A device that fails is
//! held in DEVICE_NEEDS_RESET until the driver resets it.

mod capabilities;
mod common_config;
mod interrupt;
mod pci;
pub mod queue;

pub use interrupt::VirtioInterrupt;

use crate::event_loop::{Interest, Ready, Source, SourceHandle};
use crate::pci::config::ConfigSpace;
use crate::pci::msix::{MAX_VECTORS, MessageSink, Msix};
use crate::virtio::device::{Activation, ActiveQueue, Device, DeviceError};
use common_config::CommonConfig;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Doorbells that fit into BAR 0.
pub const MAX_QUEUES: usize = 32;

/// Bits of the device status (virtio 1.2, 2.1).
pub mod status {
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// The driver has accepted features that we can work with.
    pub const FEATURES_OK: u8 = 8;
    /// We cannot go on.
    pub const NEEDS_RESET: u8 = 0x40;
}

/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;

/// Rings doorbells without a vCPU leaving the kernel.
pub trait Doorbells: Send + Sync {
    /// Signals `event` when the guest writes to `port`.
    ///
    /// # Errors
    /// What KVM says.
    fn attach(&self, port: u16, event: &EventFd) -> io::Result<()>;

    /// Undoes [`Doorbells::attach`].
    ///
    /// # Errors
    /// What KVM says.
    fn detach(&self, port: u16, event: &EventFd) -> io::Result<()>;
}

/// What the transport gets from the machine.
pub struct Host {
    /// Where MSI-X messages go.
    pub messages: Arc<dyn MessageSink>,
    /// Where doorbells are registered.
    pub doorbells: Arc<dyn Doorbells>,
    /// All memory that the guest may name in a descriptor.
    pub memory: GuestMemoryMmap,
}

/// Places of a slot's BARs.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// Base port of BAR 0, a multiple of 256.
    pub ports: u16,
    /// Address of BAR 1, a multiple of 4096.
    pub msix: u32,
}

/// A device that cannot be put on the bus.
#[derive(Debug, thiserror::Error)]
#[error("device {device}: {reason}")]
pub struct TransportError {
    device: String,
    reason: String,
}

/// A device on the PCI bus.
pub struct VirtioPci {
    device: Box<dyn Device>,
    host: Host,
    config: ConfigSpace,
    layout: capabilities::Layout,
    common: CommonConfig,
    interrupt: Arc<VirtioInterrupt>,
    kicks: Vec<(u16, EventFd)>,
    attached_at: Option<u16>,
    activated: bool,
    unplugged: bool,
    withdrawn: bool,
    /// The driver has reset the device and has not seen yet that it is done, for which it waits (virtio 1.2, 4.1.4.3.2).
    reset_unseen: bool,
    handle: Option<SourceHandle>,
}

impl VirtioPci {
    /// Puts `device` behind registers at `places`.
    ///
    /// # Errors
    /// When it has more queues than doorbells fit, or a queue size that is no power of two.
    pub fn new(device: Box<dyn Device>, host: Host, places: Places) -> Result<Self, TransportError> {
        let sizes = device.queue_sizes();
        let refused = |reason: String| TransportError { device: device.name().to_string(), reason };
        if sizes.len() > MAX_QUEUES {
            return Err(refused(format!("{} queues, {MAX_QUEUES} are possible", sizes.len())));
        }
        if let Some(size) = sizes.iter().find(|size| !size.is_power_of_two() || **size > 32768) {
            return Err(refused(format!("a queue of {size} entries is not possible")));
        }
        let vectors = (sizes.len() + 1).min(MAX_VECTORS);
        let msix = Msix::new(vectors, host.messages.clone());
        let interrupt = Arc::new(VirtioInterrupt::new(msix, sizes.len()));
        let (config, layout) = capabilities::build(&*device, places, vectors);
        let common = CommonConfig::new(device.features() | VERSION_1, sizes);
        Ok(VirtioPci {
            device,
            host,
            config,
            layout,
            common,
            interrupt,
            kicks: Vec::new(),
            attached_at: None,
            activated: false,
            unplugged: false,
            withdrawn: false,
            reset_unseen: false,
            handle: None,
        })
    }

    /// Whether a driver uses the device, or has not finished letting go: one that found nothing in its place would wait for ever.
    pub fn is_active(&self) -> bool {
        self.activated || self.reset_unseen
    }

    /// What the guest may name in a descriptor from the next time on that a driver starts the device.
    pub fn set_memory(&mut self, memory: GuestMemoryMmap) {
        self.host.memory = memory;
    }

    /// Takes the device away from its driver, for ever: what a vCPU still does to it has no effect.
    pub fn unplug(&mut self) {
        self.reset();
        self.unplugged = true;
        self.handle = None;
    }

    /// Takes away what is behind the device. Its driver gets errors, until it lets go; then the device is as unplugged.
    pub fn withdraw(&mut self) {
        self.withdrawn = true;
        if let Err(error) = self.device.withdraw() {
            self.fail(&error);
        }
        self.changed();
    }

    /// Tells the event loop about changes from now on.
    pub fn set_handle(&mut self, handle: SourceHandle) {
        self.handle = Some(handle);
    }

    fn changed(&self) {
        if let Some(handle) = &self.handle {
            handle.changed();
        }
    }

    /// The driver has written the device status.
    fn status_written(&mut self, value: u8) {
        if self.unplugged {
            return;
        }
        if value == 0 {
            self.reset_unseen |= self.activated;
            return self.reset();
        }
        // A driver cannot take a status back but by a reset.
        let mut new = self.common.status | value & !status::NEEDS_RESET;
        if new & status::FEATURES_OK != 0
            && self.common.status & status::FEATURES_OK == 0
            && !self.common.accept_features()
        {
            new &= !status::FEATURES_OK;
        }
        let ready = status::DRIVER_OK | status::FEATURES_OK;
        self.common.status = new;
        if new & ready == ready && new & status::NEEDS_RESET == 0 && !self.activated {
            self.activated = true;
            if let Err(error) = self.activate() {
                self.fail(&error);
            }
            self.changed();
        }
    }

    fn reset(&mut self) {
        self.detach();
        self.kicks.clear();
        if self.activated {
            self.device.reset();
        }
        self.activated = false;
        self.unplugged |= self.withdrawn;
        self.common.reset();
        self.interrupt.reset();
        self.changed();
    }

    fn activate(&mut self) -> Result<(), DeviceError> {
        let failed = |reason: String| DeviceError { device: self.device.name().to_string(), reason };
        let mut queues = Vec::new();
        for (index, setup) in self.common.queues.iter().enumerate() {
            let Some(queue) = setup
                .build(&self.host.memory, self.common.accepted)
                .map_err(|e| failed(format!("queue {index}: {e}")))?
            else {
                queues.push(None);
                continue;
            };
            let index = index as u16;
            let kick = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
                .and_then(|kick| Ok((kick.try_clone()?, kick)))
                .map_err(|e| failed(format!("making an eventfd: {e}")))?;
            self.kicks.push((index, kick.0));
            queues.push(Some(ActiveQueue { index, queue, kick: kick.1 }));
        }
        self.attach();
        self.device.activate(Activation {
            memory: self.host.memory.clone(),
            queues,
            features: self.common.accepted,
            interrupt: self.interrupt.clone(),
        })
    }

    /// The device cannot go on: says so to the driver, and once to the log.
    fn fail(&mut self, error: &DeviceError) {
        if self.common.status & status::NEEDS_RESET == 0 && self.common.log_failure() {
            eprintln!("clear-vmm: {error}; the device waits for a reset by its driver");
        }
        self.common.status |= status::NEEDS_RESET;
        self.detach();
        self.kicks.clear();
        crate::virtio::device::Interrupt::config(&*self.interrupt);
    }

    /// Registers the doorbells where BAR 0 is now, if it is decoded.
    fn attach(&mut self) {
        let Some(base) = self.ports() else { return };
        for (index, kick) in &self.kicks {
            // Without it a kick takes the long way, through `write_bar`.
            let _ = self.host.doorbells.attach(capabilities::doorbell(base, *index), kick);
        }
        self.attached_at = Some(base);
    }

    fn detach(&mut self) {
        let Some(base) = self.attached_at.take() else { return };
        for (index, kick) in &self.kicks {
            let _ = self.host.doorbells.detach(capabilities::doorbell(base, *index), kick);
        }
    }

    fn ports(&self) -> Option<u16> {
        let (_, bar) = self.config.decoded().into_iter().find(|(index, _)| *index == capabilities::PORTS)?;
        u16::try_from(bar.address)
            .ok()
            .filter(|base| base.checked_add(capabilities::PORTS_SIZE - 1).is_some())
    }

    /// A kick that took the long way.
    fn kicked(&self, index: u16) {
        if let Some((_, kick)) = self.kicks.iter().find(|(queue, _)| *queue == index) {
            // Fails only when the counter is full, and then the loop is awake.
            let _ = kick.write(1);
        }
    }
}

impl Source for VirtioPci {
    fn interests(&self) -> Vec<Interest> {
        if !self.activated || self.common.status & status::NEEDS_RESET != 0 {
            return Vec::new();
        }
        let kicks = self.kicks.iter().map(|(index, kick)| Interest {
            fd: kick.as_raw_fd(),
            ready: Ready::Kick(*index),
            readable: true,
            writable: false,
        });
        let files = self.device.watches().into_iter().map(|watch| Interest {
            fd: watch.fd,
            ready: Ready::File(watch.token),
            readable: watch.readable,
            writable: watch.writable,
        });
        kicks.chain(files).collect()
    }

    fn ready(&mut self, ready: Ready) {
        if !self.activated || self.common.status & status::NEEDS_RESET != 0 {
            return;
        }
        let result = match ready {
            Ready::Kick(index) => {
                if let Some((_, kick)) = self.kicks.iter().find(|(queue, _)| *queue == index) {
                    let _ = kick.read();
                }
                self.device.kick(index)
            }
            Ready::File(token) => self.device.ready(token),
        };
        if let Err(error) = result {
            self.fail(&error);
        }
    }
}

#[cfg(test)]
mod tests;
