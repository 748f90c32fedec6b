//! MSI-X: a table of messages in a BAR, each of which is an interrupt (PCI Local Bus 3.0, 6.8.2).
//!
//! A message is sent by KVM_SIGNAL_MSI from the thread that has it, not by an irqfd: it costs one system call as well, and it
//! spares the boot a KVM_SET_GSI_ROUTING, which waits for an RCU grace period, for each vector.

use crate::bus::lock;
use std::sync::{Arc, Mutex};

/// Bytes of a table entry.
pub const ENTRY: usize = 16;
/// Most vectors: the table and the pending bits then fit into a page.
pub const MAX_VECTORS: usize = 128;
/// Where the pending bits lie in the BAR.
pub const PBA_OFFSET: u64 = (MAX_VECTORS * ENTRY) as u64;
/// Vector control: masked.
const MASKED: u32 = 1;
/// Message control, high byte: enabled.
pub const ENABLED: u8 = 1 << 7;
/// Message control, high byte: all vectors masked.
pub const FUNCTION_MASK: u8 = 1 << 6;

/// Sends messages.
pub trait MessageSink: Send + Sync {
    /// Interrupts whoever `address` and `data` say. Lost when that is nobody.
    fn send(&self, address: u64, data: u32);
}

/// The vectors of a function.
pub struct Msix {
    sink: Arc<dyn MessageSink>,
    table: Mutex<Table>,
}

struct Table {
    enabled: bool,
    masked: bool,
    entries: Vec<[u32; 4]>,
    pending: Vec<bool>,
}

impl Msix {
    /// All vectors masked, as after power-on. At most [`MAX_VECTORS`].
    pub fn new(vectors: usize, sink: Arc<dyn MessageSink>) -> Self {
        let vectors = vectors.min(MAX_VECTORS);
        let table = Table {
            enabled: false,
            masked: false,
            entries: vec![[0, 0, 0, MASKED]; vectors],
            pending: vec![false; vectors],
        };
        Msix { sink, table: Mutex::new(table) }
    }

    /// Number of vectors.
    pub fn vectors(&self) -> usize {
        lock(&self.table).entries.len()
    }

    /// The guest has written the high byte of message control.
    pub fn control(&self, high: u8) {
        let mut table = lock(&self.table);
        table.enabled = high & ENABLED != 0;
        table.masked = high & FUNCTION_MASK != 0;
        for vector in 0..table.entries.len() {
            self.deliver(&mut table, vector);
        }
    }

    /// Interrupts by `vector`; one that does not exist is ignored.
    pub fn signal(&self, vector: u16) {
        let mut table = lock(&self.table);
        if let Some(pending) = table.pending.get_mut(usize::from(vector)) {
            *pending = true;
            self.deliver(&mut table, usize::from(vector));
        }
    }

    fn deliver(&self, table: &mut Table, vector: usize) {
        let [low, high, data, control] = table.entries[vector];
        if table.pending[vector] && table.enabled && !table.masked && control & MASKED == 0 {
            table.pending[vector] = false;
            self.sink.send(u64::from(high) << 32 | u64::from(low), data);
        }
    }

    /// Reads table and pending bits. Only aligned double and quad words are defined; others read ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let table = lock(&self.table);
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (index, bytes) in data.chunks_exact_mut(4).enumerate() {
            bytes.copy_from_slice(&table.word(offset + 4 * index as u64).to_le_bytes());
        }
    }

    /// Writes the table. Only aligned double and quad words are defined; others are ignored.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut table = lock(&self.table);
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (index, bytes) in data.chunks_exact(4).enumerate() {
            let at = offset as usize + 4 * index;
            if let (Some(entry), Ok(bytes)) = (table.entries.get_mut(at / ENTRY), bytes.try_into()) {
                entry[at % ENTRY / 4] = u32::from_le_bytes(bytes);
            }
        }
        let vector = offset as usize / ENTRY;
        if vector < table.entries.len() {
            self.deliver(&mut table, vector);
        }
    }
}

impl Table {
    fn word(&self, offset: u64) -> u32 {
        if offset >= PBA_OFFSET {
            let first = (offset - PBA_OFFSET) as usize * 8;
            let bit = |i: usize| u32::from(self.pending.get(first + i).copied().unwrap_or(false)) << i;
            return (0..32).map(bit).sum();
        }
        self.entries.get(offset as usize / ENTRY).map_or(0, |entry| entry[offset as usize % ENTRY / 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Sent(Mutex<Vec<(u64, u32)>>);
    impl MessageSink for Sent {
        fn send(&self, address: u64, data: u32) {
            lock(&self.0).push((address, data));
        }
    }

    #[test]
    fn a_masked_interrupt_waits() {
        let sent = Arc::new(Sent::default());
        let msix = Msix::new(2, sent.clone());
        msix.write(16, &0xFEE0_0000u64.to_le_bytes());
        msix.write(24, &[0x41, 0, 0, 0]);
        msix.signal(1);
        msix.control(ENABLED);
        let mut pending = [0; 8];
        msix.read(PBA_OFFSET, &mut pending);
        assert_eq!(pending[0], 2);
        assert!(lock(&sent.0).is_empty());
        msix.write(28, &[0; 4]);
        assert_eq!(*lock(&sent.0), [(0xFEE0_0000, 0x41)]);
        msix.control(ENABLED | FUNCTION_MASK);
        msix.signal(1);
        assert_eq!(lock(&sent.0).len(), 1);
        msix.control(ENABLED);
        assert_eq!(lock(&sent.0).len(), 2);
        msix.signal(7);
    }

    proptest! {
        #[test]
        fn no_access_panics(offset in 0u64..8192, mut data in proptest::collection::vec(any::<u8>(), 0..17), vector in any::<u16>(), control in any::<u8>()) {
            let msix = Msix::new(3, Arc::new(Sent::default()));
            msix.control(control);
            msix.write(offset, &data);
            msix.signal(vector);
            msix.read(offset, &mut data);
        }
    }
}
