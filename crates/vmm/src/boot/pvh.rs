//! The PVH start info, for kernels that are not Linux: what Xen's `arch-x86/hvm/start_info.h` describes, version 1.

use super::initramfs::Loaded;
use super::linux::memory_map;
use super::{BootError, Source, layout, outside};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336E_C578;
/// Bytes of `struct hvm_start_info`, version 1.
const START_INFO: u64 = 56;
/// Bytes of `struct hvm_modlist_entry`.
const MODULE: u64 = 32;
/// `XEN_HVM_MEMMAP_TYPE_RAM` and `_RESERVED`.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Writes start info, module list and memory map to [`layout::PVH_START_INFO`].
///
/// # Errors
/// When there is no RAM for it.
pub fn write(
    memory: &GuestMemoryMmap,
    source: &Source<'_>,
    initramfs: Option<Loaded>,
) -> Result<(), BootError> {
    memory
        .write_slice(&start_info(source.ram, initramfs), GuestAddress(layout::PVH_START_INFO))
        .map_err(|_| outside("the start info", layout::PVH_START_INFO))
}

fn start_info(ram: u64, initramfs: Option<Loaded>) -> Vec<u8> {
    let map = memory_map(ram);
    let modules = layout::PVH_START_INFO + START_INFO;
    let mut info = Vec::new();
    info.extend(MAGIC.to_le_bytes());
    info.extend(1u32.to_le_bytes()); // version
    info.extend(0u32.to_le_bytes()); // flags
    info.extend(u32::from(initramfs.is_some()).to_le_bytes());
    info.extend(modules.to_le_bytes());
    info.extend(layout::CMDLINE.to_le_bytes());
    info.extend(layout::RSDP.to_le_bytes());
    info.extend((modules + MODULE).to_le_bytes());
    info.extend((map.len() as u32).to_le_bytes());
    info.extend(0u32.to_le_bytes());
    let module = initramfs.unwrap_or(Loaded { address: 0, size: 0 });
    for value in [module.address, module.size, 0, 0] {
        info.extend(value.to_le_bytes());
    }
    for range in map {
        info.extend(range.address.to_le_bytes());
        info.extend(range.size.to_le_bytes());
        info.extend(if range.usable { RAM } else { RESERVED }.to_le_bytes());
        info.extend(0u32.to_le_bytes());
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_point_at_each_other() {
        let info = start_info(128 << 20, Some(Loaded { address: 0x700_0000, size: 77 }));
        let word = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
        let module = (word(16) - layout::PVH_START_INFO) as usize;
        assert_eq!((word(module), word(module + 8)), (0x700_0000, 77));
        let map = (word(40) - layout::PVH_START_INFO) as usize;
        assert_eq!((word(map), word(map + 8)), (0, layout::LOW_END));
        assert_eq!(info.len(), map + 3 * 24);
    }
}
