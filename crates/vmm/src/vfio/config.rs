//! What the guest sees of a function's configuration space: a space of our own, made of the device's when the machine is built.
//!
//! ```text
//!   identity, class, revision, subsystem    the device's
//!   command                                 ours; only "bus master" reaches the device
//!   BARs                                    ours, memory only: same index, size and kind, places of the guest's choice
//!   MSI-X                                   ours: enable and mask; where the table is said to be is where the device has it
//!   PCI Express                             a copy that nothing can write, without function level reset and link
//!   all other capabilities, ROM, INTx       not there
//! ```

use super::VfioError;
use super::device::Region;
use crate::pci::Space;
use crate::pci::config::{BARS, Bar, ConfigSpace, Identity, SIZE};
use std::ops::Range;

const BAR0: usize = 0x10;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const SUBSYSTEM_VENDOR: usize = 0x2C;
const CAPABILITIES: usize = 0x34;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const CAP_MSIX: u8 = 0x11;
const CAP_EXPRESS: u8 = 0x10;
/// First byte and number of capabilities that a list can have.
const FIRST_CAPABILITY: usize = 0x40;
const MAX_CAPABILITIES: usize = (SIZE - FIRST_CAPABILITY) / 4;
/// Bits of a memory BAR: 64 bits wide, prefetchable.
const WIDE: u32 = 1 << 2;
const PREFETCHABLE: u32 = 1 << 3;
/// Largest BAR: a quarter of what a guest can address.
const MAX_BAR: u64 = crate::memory::ADDRESSABLE_END / 4;

/// Most vectors that a guest gets of a function.
pub const MAX_VECTORS: usize = 128;
/// Bytes of an entry of the MSI-X table.
pub const ENTRY: u64 = 16;

/// Where MSI-X is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MsixPlace {
    /// Vectors that the guest sees.
    pub vectors: usize,
    /// BAR and bytes of the table, all that the device has.
    pub table: (usize, Range<u64>),
    /// BAR and bytes of the pending bits.
    pub pending: (usize, Range<u64>),
    /// High byte of message control in our space.
    pub control: usize,
}

/// What is shown of a function.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The space.
    pub config: ConfigSpace,
    /// Its MSI-X.
    pub msix: MsixPlace,
}

/// Builds the space from the device's. `place` gives addresses for BARs: size, and whether it may be above 4 GiB.
///
/// # Errors
/// Why such a device cannot be shown.
pub fn build(
    bytes: &[u8; SIZE],
    regions: &[Region],
    unfit: impl Fn(&'static str) -> VfioError,
    mut place: impl FnMut(u64, bool) -> Option<u64>,
) -> Result<Shown, VfioError> {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
    let identity =
        Identity { vendor: half(0), device: half(2), class: word(REVISION) >> 8, subsystem: half(0x2E) };
    let mut config = ConfigSpace::new(identity);
    config.put(REVISION, &bytes[REVISION..REVISION + 1]);
    config.put(SUBSYSTEM_VENDOR, &bytes[SUBSYSTEM_VENDOR..SUBSYSTEM_VENDOR + 2]);
    let mut index = 0;
    while index < BARS {
        let flags = word(BAR0 + 4 * index);
        let size = regions.get(index).map_or(0, |region| region.size);
        let wide = flags & 1 == 0 && flags & WIDE != 0 && index + 1 < BARS;
        // Ports are what devices have for old software besides.
        if size > 0 && flags & 1 == 0 {
            if !size.is_power_of_two() || !(16..=MAX_BAR).contains(&size) {
                return Err(unfit("a BAR of it has no size that a BAR can have"));
            }
            let address = place(size, wide).ok_or_else(|| unfit("there is no room for its BARs"))?;
            let prefetchable = flags & PREFETCHABLE != 0;
            config.add_bar(index, Bar { space: Space::Memory, address, size, wide, prefetchable });
        }
        index += 1 + usize::from(wide);
    }
    let msix = capability(bytes, CAP_MSIX).filter(|at| at + 12 <= SIZE);
    let at = msix.ok_or_else(|| unfit("it has no MSI-X, and clear-vmm has no other interrupts for it"))?;
    let entries = u64::from(half(at + 2) & 0x7FF) + 1;
    let part = |at: usize, length: u64| {
        let (bar, start) = ((word(at) & 7) as usize, u64::from(word(at) & !7));
        let room = config.bar(bar).map_or(0, |bar| bar.size);
        (start + length <= room).then_some((bar, start..start + length))
    };
    let outside = || unfit("its MSI-X table is outside of its BARs");
    let table = part(at + 4, entries * ENTRY).ok_or_else(outside)?;
    let pending = part(at + 8, entries.div_ceil(64) * 8).ok_or_else(outside)?;
    let vectors = (entries as usize).min(MAX_VECTORS);
    let body = [&(vectors as u16 - 1).to_le_bytes()[..], &bytes[at + 4..at + 12]].concat();
    // Of message control only "enable" and "function mask" can be written.
    let control = config.add_capability(CAP_MSIX, &body, &[0, 0xC0]) + 3;
    if let Some(at) = capability(bytes, CAP_EXPRESS).filter(|at| at + EXPRESS <= SIZE) {
        config.add_capability(CAP_EXPRESS, &express(&bytes[at..at + EXPRESS]), &[]);
    }
    Ok(Shown { config, msix: MsixPlace { vectors, table, pending, control } })
}

/// Bytes of the PCI Express capability, second version (PCI Express Base 4.0, 7.5.3), and without what ports have behind.
const EXPRESS: usize = 0x3C;

/// The capability behind id and link: that of an endpoint of the root complex, as the guest's bus has no ports and no links.
fn express(real: &[u8]) -> Vec<u8> {
    let mut body = vec![0; EXPRESS - 2];
    // Version; type 9 of device.
    body[0] = real[2] & 0xF | 9 << 4;
    // Device capabilities and control; not function level reset, bit 28.
    body[2..8].copy_from_slice(&real[4..10]);
    body[5] &= !0x10;
    body
}

/// Where the capability `id` is. The list may be any nonsense.
fn capability(bytes: &[u8; SIZE], id: u8) -> Option<usize> {
    if bytes[STATUS] & STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut at = usize::from(bytes[CAPABILITIES] & !3);
    for _ in 0..MAX_CAPABILITIES {
        if at < FIRST_CAPABILITY {
            return None;
        }
        if bytes[at] == id {
            return Some(at);
        }
        at = usize::from(bytes[at + 1] & !3);
    }
    None
}
