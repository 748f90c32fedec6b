//! An input, taken apart from its beginning.

/// What is left of an input.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next byte; `None` at the end.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next little endian number of 16 bits; beyond the end are zeros.
    pub fn word16(&mut self) -> u16 {
        self.number(2) as u16
    }

    /// The same of 32 bits.
    pub fn word32(&mut self) -> u32 {
        self.number(4) as u32
    }

    /// The same of 64 bits.
    pub fn word64(&mut self) -> u64 {
        self.number(8)
    }

    fn number(&mut self, size: usize) -> u64 {
        let bytes = self.take(size);
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The next `count` bytes, or as many as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }
}
