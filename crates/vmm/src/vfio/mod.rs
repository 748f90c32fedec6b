//! PCI functions of the host that the guest drives itself, by VFIO (Linux `Documentation/driver-api/vfio.rst`).
//!
//! ```text
//!   /dev/vfio/vfio  container.rs   one IOMMU address space: guest RAM and images, at the guest's addresses
//!   /dev/vfio/N     device.rs      group ─► device: its regions (BARs, configuration), interrupts, reset
//!                      │
//!   function.rs        ▼           a slot's occupant on the guest's bus
//!     ├ config.rs    identity, BARs, MSI-X and PCI Express capabilities: ours, made of the device's; nothing else is seen of it
//!     ├ bars.rs      pages of BARs as KVM memory slots, where the guest puts them; the rest by traps
//!     └ vectors.rs   the MSI-X table is ours; vector ─► eventfd of VFIO ─► irqfd of KVM
//! ```
//!
//! The guest is the device's driver and is hostile: what it can make the device do is bounded by the IOMMU, which knows the guest's own
//! memory only, and by interrupt remapping. What it says to us goes through the three modules above. Callers: `machine`.

pub mod bars;
pub mod config;
pub mod container;
pub mod device;
pub mod function;
pub mod kvm_groups;
pub mod vectors;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

/// A function that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// Not bound to vfio-pci.
    #[error(
        "PCI function {0} is not bound to vfio-pci; as root: `modprobe vfio-pci; echo vfio-pci > /sys/bus/pci/devices/{0}/driver_override; echo {0} > /sys/bus/pci/devices/{0}/driver/unbind; echo {0} > /sys/bus/pci/drivers_probe`"
    )]
    NotBound(String),
    /// A file of VFIO.
    #[error("opening {}: {source}; VFIO needs an IOMMU, CONFIG_VFIO_GROUP, and the right to open its files", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's VFIO is another.
    #[error("/dev/vfio/vfio does not offer {0}")]
    Lacks(&'static str),
    /// Others in the group.
    #[error(
        "IOMMU group {0} has devices with drivers of the host, which could reach the guest's memory: give all of them to vfio-pci"
    )]
    Shared(String),
    /// A request failed.
    #[error("VFIO: {doing}: {source}")]
    Request {
        /// For example `mapping guest memory`.
        doing: String,
        /// Why.
        source: io::Error,
    },
    /// A device that we cannot show to a guest.
    #[error("PCI function {address} cannot be passed: {why}")]
    Unfit {
        /// The function.
        address: String,
        /// For example that it has no MSI-X.
        why: &'static str,
    },
}

impl VfioError {
    /// An error of `doing` something.
    pub fn request<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> VfioError {
        let doing = doing.into();
        move |source| VfioError::Request { doing, source: source.into() }
    }
}

/// What a device can do for us. Offsets and lengths are inside of the region when these are called.
pub trait Hardware: Send {
    /// Reads from a region. What the device does not answer stays.
    fn read(&self, region: usize, offset: u64, data: &mut [u8]);

    /// Writes to a region.
    fn write(&self, region: usize, offset: u64, data: &[u8]);

    /// Turns MSI-X on, each vector with an eventfd.
    ///
    /// # Errors
    /// When the host has no interrupts left.
    fn connect(&self, events: &[vmm_sys_util::eventfd::EventFd]) -> io::Result<()>;

    /// Turns MSI-X off.
    fn disconnect(&self);
}

/// A function that was opened, and its place on the guest's bus.
#[derive(Debug)]
pub struct OpenFunction {
    /// The device.
    pub device: device::Device,
    /// The place.
    pub slot: u8,
}
