//! Which pages a guest gives away: whole pages of its RAM and nothing else, whatever it says.

use super::Ram;
use crate::virtio::guest_io::free_pages;
use crate::virtio::ring::Buffers;
use std::ops::Range;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Bytes of a balloon page (VIRTIO_BALLOON_PFN_SHIFT is 12), and of a host page.
const PAGE: u64 = 4096;

/// Most page numbers of one request: Linux sends 256.
const MAX_PAGES: usize = 1024;

/// Frees the pages whose numbers (u32) are in `list`; returns bytes.
pub fn inflate(memory: &GuestMemoryMmap, list: &Buffers, ram: &[Ram]) -> u64 {
    let mut raw = [0; 4 * MAX_PAGES];
    let len = list.read(memory, &mut raw);
    let mut numbers: Vec<u32> = raw[..len]
        .chunks_exact(4)
        .map(|number| u32::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    // One call for each run of neighbours: a call costs more than a page.
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    runs.map(|run| {
        let start = u64::from(run[0]) * PAGE;
        free(memory, start..start + run.len() as u64 * PAGE, ram)
    })
    .sum()
}

/// Frees the pages that `ranges` are; returns bytes.
pub fn report(memory: &GuestMemoryMmap, ranges: &Buffers, ram: &[Ram]) -> u64 {
    let range = |start: u64, len: u32| start..start + u64::from(len);
    ranges.segments().iter().map(|segment| free(memory, range(segment.address.0, segment.len), ram)).sum()
}

/// Frees the part of `wanted` that is RAM; returns bytes.
fn free(memory: &GuestMemoryMmap, wanted: Range<u64>, ram: &[Ram]) -> u64 {
    let mut freed = 0;
    for piece in ram {
        let start = wanted.start.max(piece.range.start).next_multiple_of(PAGE);
        let end = wanted.end.min(piece.range.end) / PAGE * PAGE;
        if start < end {
            let len = end - start;
            // It fails for huge pages of which this is a part: they stay.
            if free_pages(memory, GuestAddress(start), len as usize, piece.backing).is_ok() {
                freed += len;
            }
        }
    }
    freed
}
