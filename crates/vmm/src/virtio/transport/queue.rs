//! A queue while its driver sets it up.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

/// VIRTIO_F_EVENT_IDX (`VIRTIO_RING_F_EVENT_IDX`).
const EVENT_IDX: u64 = 1 << 29;

/// What the driver has said about a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSetup {
    max: u16,
    /// Entries.
    pub size: u16,
    /// Whether the driver wants to use it.
    pub enabled: bool,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
}

impl QueueSetup {
    /// After a reset: as large as the device likes.
    pub fn new(max: u16) -> Self {
        QueueSetup { max, size: max, enabled: false, descriptors: 0, available: 0, used: 0 }
    }

    /// Forgets what the driver said.
    pub fn reset(&mut self) {
        *self = QueueSetup::new(self.max);
    }

    /// A size that is possible; others are ignored.
    pub fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.max {
            self.size = size;
        }
    }

    /// The queue, when it is enabled.
    ///
    /// # Errors
    /// When its rings are not in guest memory.
    pub fn build(&self, memory: &GuestMemoryMmap, features: u64) -> Result<Option<Queue>, String> {
        if !self.enabled {
            return Ok(None);
        }
        let mut queue = Queue::new(self.max).map_err(|e| e.to_string())?;
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        queue.set_size(self.size);
        let (low, high) = halves(self.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(self.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(self.used);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(features & EVENT_IDX != 0);
        queue.set_ready(true);
        // The setters ignore an address that is not aligned, so compare what they took.
        let taken = (queue.desc_table(), queue.avail_ring(), queue.used_ring());
        if taken != (self.descriptors, self.available, self.used) || !queue.is_valid(memory) {
            return Err("its rings are not in guest memory".to_string());
        }
        Ok(Some(queue))
    }
}
