//! The configuration space of a virtio function: BARs, and the capabilities that say what is where in them
//! (virtio 1.2, 4.1.4).

use super::Places;
use crate::pci::Space;
use crate::pci::config::{Bar, ConfigSpace, Identity};
use crate::pci::msix::PBA_OFFSET;
use crate::virtio::device::Device;

/// BAR index of the registers.
pub const PORTS: usize = 0;
/// MSI-X table and pending bits.
pub const MSIX: usize = 1;
/// Shared memory.
pub const WINDOW: usize = 2;

/// Bytes of BAR 0.
pub const PORTS_SIZE: u16 = 256;
/// Where the parts of BAR 0 begin: the common configuration.
pub const COMMON: u64 = 0;
/// Doorbells.
pub const NOTIFY: u64 = 0x40;
/// The device's own configuration.
pub const DEVICE: u64 = 0x80;
/// ISR status.
pub const ISR: u64 = 0xFC;
/// Bytes of a doorbell: `notify_off_multiplier`.
pub const DOORBELL: u64 = 2;

/// Bytes of BAR 1.
const MSIX_SIZE: u64 = 4096;

/// Red Hat's vendor id, which all virtio devices have; modern ids begin at 0x1040.
const VENDOR: u16 = 0x1AF4;
const MODERN: u16 = 0x1040;

/// Capability ids: vendor specific, MSI-X, Enhanced Allocation.
const CAP_VENDOR: u8 = 9;
const CAP_MSIX: u8 = 0x11;
const CAP_ENHANCED: u8 = 0x14;

/// `cfg_type` of virtio's capabilities.
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;
const CFG_SHARED_MEMORY: u8 = 8;

/// Where the guest-writable capabilities are in the configuration space.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// High byte of MSI-X message control.
    pub msix_control: usize,
    /// The PCI configuration access capability.
    pub pci_access: usize,
}

/// The port of queue `index`'s doorbell.
pub fn doorbell(base: u16, index: u16) -> u16 {
    base + NOTIFY as u16 + index * DOORBELL as u16
}

/// Builds the configuration space.
pub fn build(device: &dyn Device, places: Places, vectors: usize) -> (ConfigSpace, Layout) {
    let mut config = ConfigSpace::new(Identity {
        vendor: VENDOR,
        device: MODERN + device.kind() as u16,
        class: class(device.kind()),
        // At least 0x40 for a device without the legacy interface (4.1.2.1).
        subsystem: MODERN + device.kind() as u16,
    });
    let ports = Bar {
        space: Space::Io,
        address: u64::from(places.ports),
        size: u64::from(PORTS_SIZE),
        wide: false,
        prefetchable: false,
    };
    config.add_bar(PORTS, ports);
    let msix = Bar {
        space: Space::Memory,
        address: u64::from(places.msix),
        size: MSIX_SIZE,
        wide: false,
        prefetchable: false,
    };
    config.add_bar(MSIX, msix);

    let mut control = Vec::new();
    control.extend((vectors as u16 - 1).to_le_bytes());
    control.extend((MSIX as u32).to_le_bytes());
    control.extend((PBA_OFFSET as u32 | MSIX as u32).to_le_bytes());
    // Of message control only "enable" and "function mask" can be written.
    let msix_at = config.add_capability(CAP_MSIX, &control, &[0, 0xC0]);

    config.add_capability(CAP_VENDOR, &virtio(CFG_COMMON, PORTS, 0, COMMON, NOTIFY - COMMON, &[]), &[]);
    let multiplier = (DOORBELL as u32).to_le_bytes();
    config.add_capability(
        CAP_VENDOR,
        &virtio(CFG_NOTIFY, PORTS, 0, NOTIFY, DEVICE - NOTIFY, &multiplier),
        &[],
    );
    config.add_capability(CAP_VENDOR, &virtio(CFG_ISR, PORTS, 0, ISR, 1, &[]), &[]);
    config.add_capability(CAP_VENDOR, &virtio(CFG_DEVICE, PORTS, 0, DEVICE, ISR - DEVICE, &[]), &[]);
    // The driver writes bar (byte 4 of the capability), offset, length and data (bytes 8 on); a mask begins at byte 2.
    let mask = [&[0, 0, 0xFF, 0, 0, 0][..], &[0xFF; 12]].concat();
    let pci_access = config.add_capability(CAP_VENDOR, &virtio(CFG_PCI, 0, 0, 0, 0, &[0; 4]), &mask);
    if let Some(window) = device.shared_memory() {
        config.add_capability(CAP_ENHANCED, &fixed(WINDOW, window.address, window.size), &[]);
        let high = [0u32.to_le_bytes(), ((window.size >> 32) as u32).to_le_bytes()].concat();
        config.add_capability(
            CAP_VENDOR,
            &virtio(CFG_SHARED_MEMORY, WINDOW, window.id, 0, window.size, &high),
            &[],
        );
    }
    (config, Layout { msix_control: msix_at + 3, pci_access })
}

/// `struct virtio_pci_cap` behind id and link, and what follows it.
fn virtio(kind: u8, bar: usize, id: u8, offset: u64, length: u64, rest: &[u8]) -> Vec<u8> {
    let mut cap = vec![16 + rest.len() as u8, kind, bar as u8, id, 0, 0];
    cap.extend((offset as u32).to_le_bytes());
    cap.extend((length as u32).to_le_bytes());
    cap.extend_from_slice(rest);
    cap
}

/// An Enhanced Allocation capability behind id and link, with one entry (PCI Express Base 4.0, 7.8.5): memory in place of BAR `bar`
/// that is where it is and cannot be moved. A kernel places the BARs of a device that was plugged at run time anew, and the window's
/// memory would not follow.
///
/// The entry does not say "prefetchable", although it is: Linux claims a fixed range only in a parent of the very same kind, and the
/// root of a machine without ACPI is plain memory (`assign_fixed_resource_on_bus`).
fn fixed(bar: usize, address: u64, size: u64) -> Vec<u8> {
    // Entry size (double words behind the first), BAR equivalent, primary property "memory" (0), enabled.
    let first = 4 | (bar as u32) << 4 | 1 << 31;
    // Bit 1: the field has 64 bits. The lowest two address bits are not part of it.
    let wide = |value: u64| (value as u32 & !3) | 2;
    let last = size - 1;
    let words = [first, wide(address), wide(last), (address >> 32) as u32, (last >> 32) as u32];
    let mut cap = vec![1, 0];
    cap.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    cap
}

/// PCI class of a device type: what `lspci` shows; drivers go by the device id.
fn class(kind: u32) -> u32 {
    match kind {
        1 => 0x02_0000,
        2 => 0x01_0000,
        3 => 0x07_8000,
        _ => 0xFF_0000,
    }
}
