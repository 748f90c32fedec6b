//! An IOAPIC with a few pins, for the lines of legacy devices (Intel 82093AA). Only there when such a device is.
//!
//! ```text
//!   line ── edge ─► redirection entry ─► message to a local APIC (what MSI-X uses as well)
//! ```
//!
//! It is here and not in KVM because KVM's, which brings a PIC along, takes longer to make than all the rest of a VM: it sets up
//! interrupt routes under RCU (5 to 20 ms were measured). Its lines are edge-triggered: a level-triggered entry is taken
//! as an edge as well, so no end of interrupt is needed.

use crate::pci::msix::MessageSink;
use std::sync::Arc;

/// Where it is (82093AA, 3.0).
pub const ADDRESS: u64 = 0xFEC0_0000;
/// Bytes that it answers.
pub const SIZE: u64 = 0x1000;
/// Number of pins: those of a PC's first interrupt controller, of which COM1 has number 4.
pub const PINS: usize = 8;

/// Memory-mapped registers: which one, and its value (82093AA, 3.1).
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

/// Indirect registers.
const ID: u32 = 0;
const VERSION: u32 = 1;
const ARBITRATION: u32 = 2;
const FIRST_ENTRY: u32 = 0x10;

/// What the 82093AA calls itself, and its highest entry.
const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;

/// Bits of a redirection entry.
const MASKED: u64 = 1 << 16;
const LOGICAL: u64 = 1 << 11;
/// Delivery status and remote IRR cannot be written.
const READ_ONLY: u64 = 1 << 12 | 1 << 14;

/// Where messages to local APICs go (SDM vol. 3, 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xFEE0_0000;

/// The IOAPIC.
pub struct IoApic {
    sink: Arc<dyn MessageSink>,
    select: u32,
    id: u32,
    entries: [u64; PINS],
}

impl IoApic {
    /// All pins masked.
    pub fn new(sink: Arc<dyn MessageSink>) -> Self {
        IoApic { sink, select: 0, id: 0, entries: [MASKED; PINS] }
    }

    /// One edge on `pin`. A masked pin forgets it, as the chip does.
    pub fn pulse(&self, pin: usize) {
        let Some(entry) = self.entries.get(pin).filter(|entry| **entry & MASKED == 0) else { return };
        let destination = entry >> 56;
        let mode = if entry & LOGICAL != 0 { 1 << 2 } else { 0 };
        // Vector and delivery mode are where a message has them.
        let data = *entry as u32 & 0x7FF;
        self.sink.send(MESSAGE_ADDRESS | destination << 12 | mode, data);
    }

    /// A load. Only aligned double words are defined; others leave `data` alone.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => self.select,
            WINDOW => self.register(),
            _ => 0,
        };
        if data.len() == 4 {
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            _ => self.entry().map_or(0, |(pin, shift)| (self.entries[pin] >> shift) as u32),
        }
    }

    /// A store. Only aligned double words are defined; others are ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = data.try_into() else { return };
        let value = u32::from_le_bytes(bytes);
        match (offset, self.select) {
            (SELECT, _) => self.select = value & 0xFF,
            (WINDOW, ID) => self.id = value & 0x0F00_0000,
            (WINDOW, _) => {
                if let Some((pin, shift)) = self.entry() {
                    let written = u64::from(value) << shift & !READ_ONLY;
                    self.entries[pin] = self.entries[pin] & !(0xFFFF_FFFF << shift) | written;
                }
            }
            _ => {}
        }
    }

    /// The redirection entry that is selected, and the shift of the selected half.
    fn entry(&self) -> Option<(usize, u32)> {
        let index = self.select.checked_sub(FIRST_ENTRY)?;
        let pin = index as usize / 2;
        (pin < PINS).then_some((pin, (index % 2) * 32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::lock;
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Sent(Mutex<Vec<(u64, u32)>>);
    impl MessageSink for Sent {
        fn send(&self, address: u64, data: u32) {
            lock(&self.0).push((address, data));
        }
    }

    #[test]
    fn an_unmasked_pin_sends_its_message() {
        let sent = Arc::new(Sent::default());
        let mut ioapic = IoApic::new(sent.clone());
        ioapic.pulse(4);
        let mut set = |register: u32, value: u32| {
            ioapic.write(SELECT, &register.to_le_bytes());
            ioapic.write(WINDOW, &value.to_le_bytes());
        };
        set(0x19, 3 << 24);
        set(0x18, 0x24);
        ioapic.pulse(4);
        ioapic.pulse(99);
        assert_eq!(*lock(&sent.0), [(0xFEE0_3000, 0x24)]);
        ioapic.write(SELECT, &1u32.to_le_bytes());
        let mut version = [0; 4];
        ioapic.read(WINDOW, &mut version);
        assert_eq!(version, [0x11, 0, 7, 0]);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in proptest::collection::vec((any::<bool>(), 0u64..0x20, proptest::collection::vec(any::<u8>(), 0..9)), 0..40), pin in any::<usize>()) {
            let mut ioapic = IoApic::new(Arc::new(Sent::default()));
            for (write, offset, mut data) in accesses {
                if write { ioapic.write(offset, &data) } else { ioapic.read(offset, &mut data) }
            }
            ioapic.pulse(pin);
        }
    }
}
