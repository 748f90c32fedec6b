//! The client's guest memory, mapped here.

use std::fs::File;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Where a region is for the client and for its guest.
struct Place {
    client: u64,
    guest: u64,
    size: u64,
}

/// All regions.
pub struct Memory {
    places: Vec<Place>,
    /// As devices see it.
    pub guest: GuestMemoryMmap,
}

impl Memory {
    /// Maps `regions`, each from its file.
    ///
    /// # Errors
    /// Why they cannot be, in words.
    pub fn map(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self, String> {
        if regions.len() != files.len() || regions.is_empty() {
            return Err("each region of the guest's memory needs its file".to_string());
        }
        let (mut places, mut mapped) = (Vec::new(), Vec::new());
        for (region, file) in regions.iter().zip(files) {
            // Copies: the message is packed.
            let (client, guest, size) = (region.user_addr, region.guest_phys_addr, region.memory_size);
            let failed = |e: String| format!("mapping {size} bytes of guest memory at {guest:#x}: {e}");
            // A page without a file behind it is a signal, and we are gone.
            let length = file.metadata().map_err(|e| failed(e.to_string()))?.len();
            if region.mmap_offset.checked_add(size).is_none_or(|end| end > length) {
                return Err(failed(format!("its file has {length} bytes")));
            }
            let offset = FileOffset::new(file, region.mmap_offset);
            let length = usize::try_from(size).map_err(|e| failed(e.to_string()))?;
            if client.checked_add(size).is_none() {
                return Err(failed("its address in the client is beyond the end".to_string()));
            }
            let memory = MmapRegion::from_file(offset, length).map_err(|e| failed(e.to_string()))?;
            let memory = GuestRegionMmap::new(memory, GuestAddress(guest));
            mapped.push(memory.ok_or_else(|| failed("it does not fit into the address space".to_string()))?);
            places.push(Place { client, guest, size });
        }
        mapped.sort_by_key(|region| vm_memory::GuestMemoryRegion::start_addr(region).0);
        let guest = GuestMemoryMmap::from_regions(mapped).map_err(|e| format!("the guest's memory: {e}"))?;
        Ok(Memory { places, guest })
    }

    /// The guest's address of what the client has at `address`.
    pub fn guest_address(&self, address: u64) -> Option<u64> {
        let inside = |place: &Place| {
            let at = address.checked_sub(place.client).filter(|at| *at < place.size)?;
            place.guest.checked_add(at)
        };
        self.places.iter().find_map(inside)
    }
}
