//! Which blocks of the region are plugged.

use std::io;
use std::ops::Range;

/// Most blocks of one region: 128 GiB in blocks of 2 MiB.
pub const MAX_BLOCKS: u64 = 1 << 16;

/// A region that cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// while making the memory region: a block of {0} bytes is no power of two of at least 4096
    #[error("while making the memory region: a block of {0} bytes is no power of two of at least 4096")]
    Block(u64),
    /// while making the memory region: {0:#x} to {1:#x} is not 1 to 65536 whole blocks of {2} bytes, aligned to them
    #[error(
        "while making the memory region: {0:#x} to {1:#x} is not 1 to {MAX_BLOCKS} whole blocks of {2} bytes, aligned to them"
    )]
    Region(u64, u64, u64),
    /// while making the memory region's control: {0}
    #[error("while making the memory region's control: {0}")]
    Control(io::Error),
}

/// A region in blocks.
#[derive(Debug)]
pub struct Blocks {
    region: Range<u64>,
    block: u64,
    plugged: Vec<bool>,
    count: u64,
}

impl Blocks {
    /// All unplugged.
    ///
    /// # Errors
    /// When region and block do not fit.
    pub fn new(region: Range<u64>, block: u64) -> Result<Self, RegionError> {
        if !block.is_power_of_two() || block < 4096 {
            return Err(RegionError::Block(block));
        }
        let count = region.end.saturating_sub(region.start) / block;
        if !region.start.is_multiple_of(block)
            || !region.end.is_multiple_of(block)
            || !(1..=MAX_BLOCKS).contains(&count)
        {
            return Err(RegionError::Region(region.start, region.end, block));
        }
        Ok(Self { region, block, plugged: vec![false; count as usize], count: 0 })
    }

    /// All of it, as guest addresses.
    pub fn region(&self) -> Range<u64> {
        self.region.clone()
    }

    /// Bytes of a block.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Bytes plugged.
    pub fn plugged(&self) -> u64 {
        self.count * self.block
    }

    /// The `count` blocks from `address` on, if they are some and all in the region.
    pub fn range(&self, address: u64, count: u16) -> Option<Range<u64>> {
        let end = address.checked_add(u64::from(count).checked_mul(self.block)?)?;
        let inside = address >= self.region.start && end <= self.region.end;
        (count > 0 && address.is_multiple_of(self.block) && inside).then_some(address..end)
    }

    fn indices(&self, range: &Range<u64>) -> Range<usize> {
        let index = |address: u64| ((address - self.region.start) / self.block) as usize;
        index(range.start)..index(range.end)
    }

    /// Whether all blocks of `range`, one of [`Blocks::range`], are plugged or unplugged.
    pub fn all(&self, range: &Range<u64>, plugged: bool) -> bool {
        self.plugged[self.indices(range)].iter().all(|block| *block == plugged)
    }

    /// Makes all blocks of `range`, one of [`Blocks::range`], plugged or unplugged.
    pub fn set(&mut self, range: &Range<u64>, plugged: bool) {
        let indices = self.indices(range);
        for block in &mut self.plugged[indices] {
            self.count = self.count + u64::from(plugged) - u64::from(*block);
            *block = plugged;
        }
    }
}
