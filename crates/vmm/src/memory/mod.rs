//! Guest physical memory: where things are, how RAM is made, how files are mapped into it, and how KVM learns of it.
//!
//! ```text
//!   0 ─────── 0xD000_0000        RAM, with the boot structures in the first MiB and the kernel behind
//!   0xD000_0000 ─ 0xFEC0_0000    32-bit memory BARs (MSI-X tables)
//!   0xFEC0_0000 ─ 4 GiB          IOAPIC, local APICs, KVM's own pages: no memory of ours
//!   4 GiB ─ ...                  the rest of RAM
//!   next 1 GiB step ─ ...        pmem regions and DAX windows, each at a multiple of 2 MiB
//! ```

pub mod file;
pub mod ram;
pub mod slots;
pub mod window;

use std::ops::Range;
use vm_memory::GuestRegionMmap;

/// A page of the x86 MMU, bytes.
pub const PAGE: u64 = 4096;

/// A huge page: the step of pmem regions (`memremap_compat_align` in the kernel) and of the identity map.
pub const HUGE_PAGE: u64 = 2 << 20;

/// End of RAM below 4 GiB.
pub const LOW_RAM_END: u64 = 0xD000_0000;

/// First 32-bit address for BARs.
pub const MMIO32_START: u64 = LOW_RAM_END;

/// End of the 32-bit BARs: the IOAPIC's address (82093AA, 3.0).
pub const MMIO32_END: u64 = 0xFEC0_0000;

/// Where RAM goes on above the hole.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// Where regions end: 46 bits, the smallest physical address width of a 64-bit server CPU that is still sold.
pub const ADDRESSABLE_END: u64 = 1 << 46;

/// Windows begin at a multiple of this, so that a gigabyte page can map RAM below.
const WINDOW_ALIGN: u64 = 1 << 30;

/// Memory that could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("reserving {size} bytes of {what}: {source}")]
    Map {
        /// For example `guest RAM`.
        what: &'static str,
        /// Bytes.
        size: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be mapped or read.
    #[error("loading {size} bytes of {what} at guest address {address:#x}: {source}")]
    Load {
        /// For example `kernel segment`.
        what: &'static str,
        /// Bytes.
        size: u64,
        /// Guest physical address.
        address: u64,
        /// Why.
        source: std::io::Error,
    },
    /// An address range that is not RAM.
    #[error(
        "{what} needs {size} bytes at guest address {address:#x}, which is outside of the guest's RAM; give it more memory"
    )]
    Outside {
        /// For example `kernel segment`.
        what: &'static str,
        /// Bytes.
        size: u64,
        /// Guest physical address.
        address: u64,
    },
    /// Regions overlap.
    #[error("placing {what} at guest address {address:#x}: {reason}")]
    Place {
        /// For example `pmem region`.
        what: &'static str,
        /// Guest physical address.
        address: u64,
        /// Why.
        reason: String,
    },
    /// KVM refused a slot.
    #[error("giving KVM {size} bytes at guest address {address:#x}: {source}")]
    Slot {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        size: u64,
        /// Why.
        source: std::io::Error,
    },
}

/// A region of guest memory that is not RAM: a pmem image or a DAX window.
#[derive(Debug)]
pub struct Window {
    /// The mapping, at its place.
    pub region: GuestRegionMmap,
    /// Whether KVM refuses the guest's writes.
    pub readonly: bool,
    /// Whether its pages are this machine's own: copies of a file's, or of no file.
    pub private: bool,
}

/// Where regions begin above `ram` bytes of RAM.
pub fn windows_start(ram: u64) -> u64 {
    (HIGH_RAM_START + ram.saturating_sub(LOW_RAM_END)).next_multiple_of(WINDOW_ALIGN)
}

/// Places regions above RAM, each in the lowest gap that fits.
#[derive(Debug)]
pub struct WindowAllocator {
    start: u64,
    /// What is taken, in order.
    taken: Vec<Range<u64>>,
}

impl WindowAllocator {
    /// Starts above `ram` bytes of RAM.
    pub fn new(ram: u64) -> Self {
        WindowAllocator { start: windows_start(ram), taken: Vec::new() }
    }

    /// The address of a region of `size` bytes, a multiple of its size rounded up to a power of two (what a BAR
    /// needs) and of 2 MiB; `None` beyond what the guest can address.
    pub fn place(&mut self, size: u64) -> Option<u64> {
        let align = size.checked_next_power_of_two()?.max(HUGE_PAGE);
        let mut address = self.start.checked_next_multiple_of(align)?;
        let mut index = 0;
        while let Some(taken) = self.taken.get(index)
            && address.checked_add(size)? > taken.start
        {
            address = address.max(taken.end).checked_next_multiple_of(align)?;
            index += 1;
        }
        let end = address.checked_add(size).filter(|end| *end <= ADDRESSABLE_END)?;
        self.taken.insert(index, address..end);
        Some(address)
    }

    /// Makes the region at `address` free.
    pub fn release(&mut self, address: u64) {
        self.taken.retain(|taken| taken.start != address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_lie_above_ram_and_do_not_overlap() {
        let mut windows = WindowAllocator::new(LOW_RAM_END + (3 << 30));
        let first = windows.place(6 << 20).unwrap();
        let second = windows.place(HUGE_PAGE).unwrap();
        assert_eq!(first % (8 << 20), 0);
        assert!(first >= HIGH_RAM_START + (3 << 30));
        assert!(second >= first + (6 << 20));
        assert_eq!(windows.place(u64::MAX), None);
        assert_eq!(windows.place(1 << 46), None);
    }

    proptest! {
        #[test]
        fn gaps_are_used_again_and_nothing_overlaps(steps in prop::collection::vec((any::<bool>(), 1..200u64), 1..60)) {
            let mut windows = WindowAllocator::new(64 << 20);
            let mut live: Vec<(u64, u64)> = Vec::new();
            for (add, number) in steps {
                if add || live.is_empty() {
                    let size = number * HUGE_PAGE;
                    let address = windows.place(size).unwrap();
                    prop_assert_eq!(address % size.next_power_of_two(), 0);
                    prop_assert!(live.iter().all(|(start, length)| address + size <= *start || start + length <= address));
                    live.push((address, size));
                } else {
                    windows.release(live.remove(number as usize % live.len()).0);
                }
            }
            live.iter().for_each(|(address, _)| windows.release(*address));
            prop_assert_eq!(windows.place(HUGE_PAGE), Some(WindowAllocator::new(64 << 20).place(HUGE_PAGE).unwrap()));
        }
    }
}
