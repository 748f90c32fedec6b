//! Linux' compressed kernels: the protected-mode part is loaded whole, entered in 64-bit mode, and unpacks itself.
//!
//! Source: `Documentation/arch/x86/boot.rst`. Needs boot protocol 2.12 (Linux 3.8) for the 64-bit entry.

use super::linux::SetupHeader;
use super::{BootError, layout, length};
use crate::memory::{self, HUGE_PAGE, MemoryError};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Offsets in the file.
mod at {
    pub const SETUP_SECTS: usize = 0x1F1;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const XLOADFLAGS: usize = 0x236;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    pub const HEADER_END: usize = 0x290;
}

/// Oldest boot protocol with `xloadflags`.
const PROTOCOL_2_12: u16 = 0x020C;
/// `XLF_KERNEL_64`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// Distance of the 64-bit entry from the start of the protected-mode part.
const ENTRY_64: u64 = 0x200;

/// A bzImage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Given back to the kernel in the zero page.
    pub header: SetupHeader,
    offset: u64,
    size: u64,
    address: u64,
    init_size: u64,
}

impl Image {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// When it is no bzImage, is cut off, or has no 64-bit entry.
    pub fn read(file: &File) -> Result<Self, BootError> {
        let total = length(file, "kernel")?;
        let mut start = [0; at::HEADER_END];
        file.read_exact_at(&mut start, 0).map_err(|_| BootError::UnknownFormat)?;
        let word16 = |at: usize| u16::from_le_bytes([start[at], start[at + 1]]);
        let word32 = |at: usize| u64::from(word16(at)) | u64::from(word16(at + 2)) << 16;
        if start[at::MAGIC..at::MAGIC + 4] != *b"HdrS" {
            return Err(BootError::UnknownFormat);
        }
        if word16(at::VERSION) < PROTOCOL_2_12 || word16(at::XLOADFLAGS) & XLF_KERNEL_64 == 0 {
            return Err(BootError::Unsupported(
                "it is a bzImage without a 64-bit entry (Linux 3.8 or newer, x86-64)".to_string(),
            ));
        }
        let sectors = if start[at::SETUP_SECTS] == 0 { 4 } else { u64::from(start[at::SETUP_SECTS]) };
        let offset = (sectors + 1) * 512;
        let size = total.saturating_sub(offset);
        let address = word32(at::PREF_ADDRESS) | word32(at::PREF_ADDRESS + 4) << 32;
        let init_size = word32(at::INIT_SIZE);
        if size <= ENTRY_64 {
            return Err(BootError::Damaged(format!("it has {total} bytes, the kernel begins at {offset}")));
        }
        // It must lie above the boot structures, and the identity map reaches 1 GiB (see vcpu::registers).
        let end = address.checked_add(init_size.max(size));
        if address < layout::HIGH_START || address % HUGE_PAGE != 0 || end.is_none_or(|end| end > 1 << 30) {
            return Err(BootError::Damaged(format!("it wants {init_size} bytes at address {address:#x}")));
        }
        // The header ends where the jump at its start says (boot.rst, "THE REAL-MODE KERNEL HEADER").
        let header_end = (0x202 + usize::from(start[0x201])).clamp(at::HEADER_END - 0x28, at::HEADER_END);
        let header = SetupHeader::from_file(&start[at::SETUP_SECTS..header_end]);
        Ok(Image { header, offset, size, address, init_size })
    }

    /// Looks whether `ram` bytes of RAM are enough; returns the end of what it needs.
    ///
    /// # Errors
    /// When they are not.
    pub fn fits(&self, ram: u64) -> Result<u64, BootError> {
        let room = self.init_size.max(self.size);
        super::in_ram(ram, self.address, room, "the kernel")?;
        Ok(self.address + room)
    }

    /// Puts the kernel into guest memory; returns the range that it needs to unpack itself.
    ///
    /// # Errors
    /// When there is not enough RAM, or the file cannot be read.
    pub fn load(&self, memory: &GuestMemoryMmap, file: &File) -> Result<Range<u64>, BootError> {
        let room = self.init_size.max(self.size);
        let outside = MemoryError::Outside { what: "the kernel", size: room, address: self.address };
        memory.get_slice(GuestAddress(self.address), room as usize).map_err(|_| outside)?;
        memory::file::load(memory, file, self.offset, self.address, self.size, "the kernel")?;
        Ok(self.address..self.address + room)
    }

    /// Where the first vCPU starts.
    pub fn entry(&self) -> u64 {
        self.address + ENTRY_64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn kernel() -> Vec<u8> {
        let mut file = vec![0; 0x1000];
        file[at::SETUP_SECTS] = 3;
        file[0x201] = 0x6A;
        file[at::MAGIC..at::MAGIC + 4].copy_from_slice(b"HdrS");
        file[at::VERSION..at::VERSION + 2].copy_from_slice(&0x020Fu16.to_le_bytes());
        file[at::XLOADFLAGS] = 1;
        file[at::PREF_ADDRESS..at::PREF_ADDRESS + 4].copy_from_slice(&0x100_0000u32.to_le_bytes());
        file[at::INIT_SIZE..at::INIT_SIZE + 4].copy_from_slice(&0x10_0000u32.to_le_bytes());
        file
    }

    fn read(content: &[u8]) -> Result<Image, BootError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Image::read(&file)
    }

    #[test]
    fn finds_the_protected_mode_part() {
        let image = read(&kernel()).unwrap();
        assert_eq!((image.offset, image.size, image.entry()), (2048, 2048, 0x100_0200));
    }

    #[test]
    fn what_cannot_boot_is_refused() {
        assert!(matches!(read(b"#!/bin/sh"), Err(BootError::UnknownFormat)));
        assert!(matches!(read(&kernel()[..0x900]), Err(BootError::Damaged(_))));
        let mut old = kernel();
        old[at::XLOADFLAGS] = 0;
        assert!(matches!(read(&old), Err(BootError::Unsupported(_))));
        let mut low = kernel();
        low[at::PREF_ADDRESS + 3] = 0;
        low[at::PREF_ADDRESS + 2] = 0;
        assert!(matches!(read(&low), Err(BootError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn no_header_panics(patches in proptest::collection::vec((0x1F1usize..0x290, any::<u8>()), 0..12)) {
            let mut content = kernel();
            for (at, value) in patches {
                content[at] = value;
            }
            if let Ok(image) = read(&content) {
                let memory = memory::ram::allocate(20 << 20, memory::ram::RamOptions::default()).unwrap();
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&content).unwrap();
                let _ = image.load(&memory, &file);
            }
        }
    }
}
