//! Guest RAM: private anonymous memory, so that KSM can merge it and a fork can share it.
#![expect(unsafe_code, reason = "maps memory and hands the pointer to vm-memory")]

use super::{HIGH_RAM_START, HUGE_PAGE, LOW_RAM_END, MemoryError};
use std::io;
use std::ops::Range;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

/// Where Linux' allocator hands out its first pages: the 16 MiB of the old DMA zone.
const BELOW_KERNEL: u64 = 16 << 20;
/// Hash tables and per-CPU areas besides the page descriptors.
const FIRST_TABLES: u64 = 4 << 20;

/// How RAM is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct RamOptions {
    /// Let KSM merge equal pages with other machines. A side channel between tenants.
    pub mergeable: bool,
    /// Ask for transparent huge pages: fewer faults, more memory for the pages around a touched one.
    pub hugepages: bool,
    /// Touch all of it before the guest starts.
    pub prefault: bool,
}

/// Makes `size` bytes of RAM at guest addresses 0.. and, beyond [`LOW_RAM_END`], 4 GiB...
///
/// # Errors
/// When the host has no room for it.
pub fn allocate(size: u64, options: RamOptions) -> Result<GuestMemoryMmap, MemoryError> {
    let mut regions = Vec::new();
    for (start, length) in ranges(size) {
        let region = map(length, options).map_err(|source| MemoryError::Map {
            what: "guest RAM",
            size: length,
            source,
        })?;
        regions.push(place(region, start, "guest RAM")?);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|e| MemoryError::Place {
        what: "guest RAM",
        address: 0,
        reason: e.to_string(),
    })
}

/// The address ranges of `size` bytes of RAM.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(LOW_RAM_END);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((HIGH_RAM_START, size - low));
    }
    ranges
}

/// Puts a mapping at a guest address.
///
/// # Errors
/// When it does not fit below 2^64.
pub fn place(region: MmapRegion, address: u64, what: &'static str) -> Result<GuestRegionMmap, MemoryError> {
    GuestRegionMmap::new(region, GuestAddress(address)).ok_or_else(|| MemoryError::Place {
        what,
        address,
        reason: "it does not fit into the address space".to_string(),
    })
}

/// Reserves `length` bytes of RAM.
///
/// # Errors
/// When the host refuses.
pub fn map(length: u64, options: RamOptions) -> io::Result<MmapRegion> {
    let region = anonymous(length, libc::PROT_READ | libc::PROT_WRITE)?;
    let mut advice = Vec::new();
    if options.mergeable {
        advice.push(libc::MADV_MERGEABLE);
    }
    if options.hugepages {
        advice.push(libc::MADV_HUGEPAGE);
    }
    if options.prefault {
        advice.push(libc::MADV_POPULATE_WRITE);
    }
    for advice in advice {
        // SAFETY: the range is the whole mapping just made, to which nobody else has a reference.
        if unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(region)
}

/// Reserves private memory at a multiple of 2 MiB in our own address space, so that huge pages fit.
///
/// # Errors
/// When the host refuses.
pub fn anonymous(length: u64, protection: i32) -> io::Result<MmapRegion> {
    let too_large = || io::Error::from_raw_os_error(libc::ENOMEM);
    let size = usize::try_from(length).map_err(|_| too_large())?;
    let padded = size.checked_add(HUGE_PAGE as usize).ok_or_else(too_large)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), padded, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let aligned = (start as usize).next_multiple_of(HUGE_PAGE as usize);
    let head = aligned - start as usize;
    let tail = padded - head - size;
    // SAFETY: both ranges are inside the mapping just made and outside of the part that is used; page aligned because
    // `aligned` is, and `size` is rounded up by the kernel. An empty range is not unmapped.
    unsafe {
        if head > 0 {
            libc::munmap(start, head);
        }
        let end = (aligned + size).next_multiple_of(super::PAGE as usize);
        if tail > end - (aligned + size) {
            libc::munmap(end as *mut libc::c_void, tail - (end - (aligned + size)));
        }
    }
    // SAFETY: the range is mapped, owned by nobody else, and never unmapped: one process is one machine.
    unsafe { MmapRegion::build_raw(aligned as *mut u8, size, protection, flags) }
        .map_err(|e| io::Error::other(e.to_string()))
}

/// Asks for huge pages where a booting kernel is known to touch nearly every page: in the low memory that it hands out first, and at the
/// end of RAM, where its page descriptors (64 bytes for each page of 4 KiB) and first tables go. Thousands of faults less, and little
/// memory more. To be called before anything is written: one page that is there already keeps a huge page from being made.
pub fn favour_dense_parts(memory: &GuestMemoryMmap) {
    let Some(last) = memory.iter().last().map(|region| region.last_addr().raw_value() + 1) else { return };
    let descriptors = memory.iter().map(|region| region.len()).sum::<u64>() / 64;
    let tables = (descriptors + FIRST_TABLES).next_multiple_of(HUGE_PAGE);
    favour(memory, &(0..BELOW_KERNEL.min(last)));
    favour(memory, &(last.saturating_sub(tables)..last));
}

/// Asks for huge pages in a range of guest memory. A hint: nothing depends on it.
pub fn favour(memory: &GuestMemoryMmap, range: &Range<u64>) {
    let _ = advise(memory, range, libc::MADV_HUGEPAGE);
}

/// madvise(2) for a range of guest memory.
fn advise(memory: &GuestMemoryMmap, range: &Range<u64>, advice: libc::c_int) -> io::Result<()> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let slice = memory.get_slice(GuestAddress(range.start), length).map_err(io::Error::other)?;
    // SAFETY: the range is guest memory, mapped as long as the process lives, and the advice that is given here changes none
    // of its content.
    let result = unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), length, advice) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn ram_leaves_the_hole_free() {
        assert_eq!(ranges(64 << 20), [(0, 64 << 20)]);
        assert_eq!(ranges(LOW_RAM_END + 4096), [(0, LOW_RAM_END), (HIGH_RAM_START, 4096)]);
    }

    #[test]
    fn ram_is_aligned_zeroed_and_usable() {
        let memory = allocate(5 << 20, RamOptions { prefault: true, ..RamOptions::default() }).unwrap();
        let region = memory.iter().next().unwrap();
        assert_eq!(region.as_ptr() as usize % HUGE_PAGE as usize, 0);
        assert_eq!(region.len(), 5 << 20);
        assert_eq!(memory.read_obj::<u64>(GuestAddress((5 << 20) - 8)).unwrap(), 0);
        memory.write_obj(7u64, GuestAddress((5 << 20) - 8)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress((5 << 20) - 8)).unwrap(), 7);
        assert!(memory.read_obj::<u64>(GuestAddress((5 << 20) - 7)).is_err());
    }
}
