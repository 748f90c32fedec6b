//! Linux' zero page: the 64-bit boot protocol's description of the machine.
//!
//! Source: `Documentation/arch/x86/{boot,zero-page}.rst`, `arch/x86/include/uapi/asm/bootparam.h`.

use super::initramfs::Loaded;
use super::{BootError, Source, layout, outside};
use crate::memory::ram;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of `struct boot_params`.
const ZERO_PAGE_SIZE: usize = 4096;

/// Offsets in the zero page.
mod at {
    pub const ACPI_RSDP: usize = 0x070;
    pub const E820_ENTRIES: usize = 0x1E8;
    pub const SETUP_HEADER: usize = 0x1F1;
    pub const BOOT_FLAG: usize = 0x1FE;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const LOADER: usize = 0x210;
    pub const LOAD_FLAGS: usize = 0x211;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21C;
    pub const CMDLINE: usize = 0x228;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const E820_TABLE: usize = 0x2D0;
}

/// `type_of_loader` of a boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;

/// `e820_entry::type`: usable RAM.
const E820_RAM: u32 = 1;
/// `e820_entry::type`: taken.
const E820_RESERVED: u32 = 2;

/// The part of a bzImage that the kernel wants back in the zero page (offset 0x1F1 on).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupHeader(Vec<u8>);

impl SetupHeader {
    /// A header for a kernel that comes without one, so that it takes the zero page for real.
    pub fn for_elf() -> Self {
        let mut page = [0; ZERO_PAGE_SIZE];
        put(&mut page, at::BOOT_FLAG, &0xAA55u16.to_le_bytes());
        put(&mut page, at::MAGIC, b"HdrS");
        put(&mut page, at::VERSION, &0x020Fu16.to_le_bytes());
        put(&mut page, at::LOAD_FLAGS, &[1]);
        put(&mut page, at::KERNEL_ALIGNMENT, &0x20_0000u32.to_le_bytes());
        put(&mut page, at::CMDLINE_SIZE, &(machine_spec::MAX_CMDLINE as u32).to_le_bytes());
        SetupHeader(page[at::SETUP_HEADER..at::E820_TABLE - 0x40].to_vec())
    }

    /// Takes the header of a bzImage as it is in the file.
    pub fn from_file(bytes: &[u8]) -> Self {
        SetupHeader(bytes[..bytes.len().min(at::E820_TABLE - at::SETUP_HEADER)].to_vec())
    }
}

/// One line of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Whether the kernel may use it.
    pub usable: bool,
}

/// The memory map of a machine with `ram` bytes.
pub fn memory_map(ram_size: u64) -> Vec<MemoryRange> {
    let mut map = vec![
        MemoryRange { address: 0, size: layout::LOW_END, usable: true },
        MemoryRange { address: layout::LOW_END, size: layout::HIGH_START - layout::LOW_END, usable: false },
    ];
    for (start, length) in ram::ranges(ram_size) {
        let skip = layout::HIGH_START.saturating_sub(start).min(length);
        map.push(MemoryRange { address: start + skip, size: length - skip, usable: true });
    }
    map
}

/// Writes the zero page.
///
/// # Errors
/// When there is no RAM for it.
pub fn write(
    memory: &GuestMemoryMmap,
    source: &Source<'_>,
    header: SetupHeader,
    initramfs: Option<Loaded>,
) -> Result<(), BootError> {
    let mut page = [0; ZERO_PAGE_SIZE];
    put(&mut page, at::SETUP_HEADER, &header.0);
    put(&mut page, at::ACPI_RSDP, &layout::RSDP.to_le_bytes());
    put(&mut page, at::LOADER, &[LOADER_UNDEFINED]);
    put(&mut page, at::CMDLINE, &(layout::CMDLINE as u32).to_le_bytes());
    if let Some(initramfs) = initramfs {
        // Both fit: it lies below LOW_RAM_END.
        put(&mut page, at::RAMDISK_IMAGE, &(initramfs.address as u32).to_le_bytes());
        put(&mut page, at::RAMDISK_SIZE, &(initramfs.size as u32).to_le_bytes());
    }
    let map = memory_map(source.ram);
    page[at::E820_ENTRIES] = map.len() as u8;
    for (index, range) in map.iter().enumerate() {
        let entry = at::E820_TABLE + index * 20;
        put(&mut page, entry, &range.address.to_le_bytes());
        put(&mut page, entry + 8, &range.size.to_le_bytes());
        let kind = if range.usable { E820_RAM } else { E820_RESERVED };
        put(&mut page, entry + 16, &kind.to_le_bytes());
    }
    memory
        .write_slice(&page, GuestAddress(layout::ZERO_PAGE))
        .map_err(|_| outside("zero page", layout::ZERO_PAGE))
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HIGH_RAM_START, LOW_RAM_END};

    #[test]
    fn the_memory_map_covers_all_ram_but_the_tables() {
        let usable = |ram| memory_map(ram).iter().filter(|r| r.usable).map(|r| r.size).sum::<u64>();
        let hole = layout::HIGH_START - layout::LOW_END;
        assert_eq!(usable(128 << 20), (128 << 20) - hole);
        assert_eq!(usable(LOW_RAM_END + 8192), LOW_RAM_END + 8192 - hole);
        let last = *memory_map(LOW_RAM_END + 8192).last().unwrap();
        assert_eq!(last, MemoryRange { address: HIGH_RAM_START, size: 8192, usable: true });
    }
}
