//! A function's configuration space: 256 bytes, and which of their bits the guest may change.
//!
//! A BAR's size is told by its write mask alone: writing ones reads back the bits that can be set (PCI Local Bus 3.0, 6.2.5.1).

use super::Space;

/// Bytes of the configuration space that ports can reach.
pub const SIZE: usize = 256;
/// Number of BARs of a function.
pub const BARS: usize = 6;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
/// The registers that say what is decoded where.
pub const BAR_AND_COMMAND: std::ops::Range<usize> = COMMAND..BAR0 + 4 * BARS;
const CAPABILITIES: usize = 0x34;
/// Where the first capability goes.
const FIRST_CAPABILITY: usize = 0x40;
/// Command register: decode ports, decode memory.
const COMMAND_IO: u8 = 1;
const COMMAND_MEMORY: u8 = 2;
/// Command bits that can be set: I/O, memory, bus master, SERR, INTx disable.
const COMMAND_MASK: u16 = 0x0507;
/// Status register: there is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Who a function is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass and interface, 24 bits.
    pub class: u32,
    /// Subsystem id.
    pub subsystem: u16,
}

/// A range that the function answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Ports or memory.
    pub space: Space,
    /// Where it is, a multiple of the size.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
    /// A 64-bit BAR: of memory that may lie above 4 GiB. It takes the next index as well.
    pub wide: bool,
    /// Reads have no effect; all windows are, registers are not.
    pub prefetchable: bool,
}

/// The configuration space.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    mask: [u8; SIZE],
    bars: [Option<Bar>; BARS],
    last_capability: usize,
    free: usize,
}

impl ConfigSpace {
    /// A function without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut config = ConfigSpace {
            bytes: [0; SIZE],
            mask: [0; SIZE],
            bars: [None; BARS],
            last_capability: CAPABILITIES,
            free: FIRST_CAPABILITY,
        };
        config.put(0x00, &identity.vendor.to_le_bytes());
        config.put(0x02, &identity.device.to_le_bytes());
        // Revision 1: modern virtio (virtio 1.2, 4.1.2.1); others do not mind.
        config.put(0x08, &(identity.class << 8 | 1).to_le_bytes());
        config.put(0x2C, &identity.vendor.to_le_bytes());
        config.put(0x2E, &identity.subsystem.to_le_bytes());
        config.mask[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_MASK.to_le_bytes());
        // Interrupt line: a note that software leaves to itself.
        config.mask[0x3C] = 0xFF;
        config
    }

    /// Gives the function a BAR; a 64-bit one takes the next index as well.
    pub fn add_bar(&mut self, index: usize, bar: Bar) {
        let at = BAR0 + 4 * index;
        let flags = match bar.space {
            Space::Io => 1,
            Space::Memory => u32::from(bar.prefetchable) << 3 | u32::from(bar.wide) << 2,
        };
        let keep = match bar.space {
            Space::Io => !3,
            Space::Memory => !0xFu32,
        };
        let mask = !(bar.size - 1);
        self.put(at, &(bar.address as u32 & keep | flags).to_le_bytes());
        self.mask[at..at + 4].copy_from_slice(&(mask as u32 & keep).to_le_bytes());
        if bar.wide {
            self.put(at + 4, &((bar.address >> 32) as u32).to_le_bytes());
            self.mask[at + 4..at + 8].copy_from_slice(&((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[index] = Some(bar);
    }

    /// A BAR, where it was at power-on.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// Appends a capability: its id, and its bytes behind id and link. Returns where it begins.
    ///
    /// # Panics
    /// When there is no room: what a function has is decided by us, not by the guest.
    pub fn add_capability(&mut self, id: u8, body: &[u8], mask: &[u8]) -> usize {
        let at = self.free;
        assert!(at + 2 + body.len() <= SIZE, "too many capabilities");
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.mask[at + 2..at + 2 + mask.len()].copy_from_slice(mask);
        let link = if self.last_capability == CAPABILITIES { CAPABILITIES } else { self.last_capability + 1 };
        self.bytes[link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.last_capability = at;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Reads; bytes beyond the end stay as they are.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            if let Some(value) = self.bytes.get(offset + index) {
                *byte = *value;
            }
        }
    }

    /// Writes what may be written. Says whether BARs or their decoding may have changed.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        for (index, byte) in data.iter().enumerate() {
            let at = offset + index;
            if let (Some(value), Some(mask)) = (self.bytes.get_mut(at), self.mask.get(at)) {
                *value = *value & !mask | byte & mask;
            }
        }
        let touches = |start: usize, length: usize| offset < start + length && start < offset + data.len();
        touches(COMMAND, 2) || touches(BAR0, 4 * BARS)
    }

    /// Sets bytes regardless of the mask.
    pub fn put(&mut self, offset: usize, data: &[u8]) {
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    /// The BARs that are decoded now, with the addresses that the guest gave them.
    pub fn decoded(&self) -> Vec<(usize, Bar)> {
        let command = self.bytes[COMMAND];
        let on = |space| command & if space == Space::Io { COMMAND_IO } else { COMMAND_MEMORY } != 0;
        (0..BARS)
            .filter_map(|i| self.bars[i].map(|bar| (i, Bar { address: self.address(i, &bar), ..bar })))
            .filter(|(_, b)| on(b.space))
            .collect()
    }

    fn address(&self, index: usize, bar: &Bar) -> u64 {
        let word = |at: usize| {
            u64::from(u32::from_le_bytes([
                self.bytes[at],
                self.bytes[at + 1],
                self.bytes[at + 2],
                self.bytes[at + 3],
            ]))
        };
        let at = BAR0 + 4 * index;
        match (bar.space, bar.wide) {
            (Space::Io, _) => word(at) & !3,
            (Space::Memory, false) => word(at) & !0xF,
            (Space::Memory, true) => word(at) & !0xF | word(at + 4) << 32,
        }
    }
}
