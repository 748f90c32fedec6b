//! The initial RAM file system: mapped at the top of low RAM.

use super::{BootError, length};
use crate::memory::{self, LOW_RAM_END, MemoryError, PAGE};
use std::fs::File;
use vm_memory::GuestMemoryMmap;

/// Where the initramfs lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// Where it goes: below the end of low RAM; `None` for an empty file.
///
/// # Errors
/// When it does not fit between `kernel_end` and the end of low RAM.
pub fn place(file: &File, ram: u64, kernel_end: u64) -> Result<Option<Loaded>, BootError> {
    let size = length(file, "initramfs")?;
    if size == 0 {
        return Ok(None);
    }
    // Linux keeps the last page of RAM below 4 GiB for itself on some paths; leave it free.
    let top = ram.min(LOW_RAM_END).saturating_sub(PAGE);
    let too_large = MemoryError::Outside { what: "the initramfs", size, address: kernel_end };
    let Some(address) = size.checked_next_multiple_of(PAGE).and_then(|pages| top.checked_sub(pages)) else {
        return Err(too_large.into());
    };
    let address = address - address % PAGE;
    if address < kernel_end {
        return Err(too_large.into());
    }
    Ok(Some(Loaded { address, size }))
}

/// Maps it there.
///
/// # Errors
/// As [`place`], and when it cannot be mapped or read.
pub fn load(
    memory: &GuestMemoryMmap,
    file: &File,
    ram: u64,
    kernel_end: u64,
) -> Result<Option<Loaded>, BootError> {
    let Some(loaded) = place(file, ram, kernel_end)? else { return Ok(None) };
    memory::file::load(memory, file, 0, loaded.address, loaded.size, "the initramfs")?;
    Ok(Some(loaded))
}
