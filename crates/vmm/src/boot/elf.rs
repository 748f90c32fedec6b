//! Uncompressed ELF kernels (`vmlinux`): program headers, the PVH note, and the segments mapped into guest memory.

use super::{BootError, length};
use crate::memory;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// ELF64 header (System V ABI, chapter 4): bytes.
const HEADER: usize = 64;
/// ELF64 program header: bytes.
const PROGRAM_HEADER: usize = 56;
/// Most program headers that are looked at; a kernel has about five.
const MAX_PROGRAM_HEADERS: usize = 64;
/// Longest note segment that is searched.
const MAX_NOTES: u64 = 64 << 10;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Segment flag of what is written to.
const PF_W: u32 = 2;
const MACHINE_X86_64: u16 = 62;

/// `XEN_ELFNOTE_PHYS32_ENTRY` of Xen's `elfnote.h`.
const NOTE_PVH_ENTRY: u32 = 18;

/// A loadable part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub address: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory, at least those of the file.
    pub memory_size: u64,
    /// Whether it says that it is written to: data, and code that is thrown away after the boot.
    pub writable: bool,
}

/// The headers of an ELF kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The 64-bit entry point, a physical address in Linux.
    pub entry: u64,
    /// The 32-bit entry point of the PVH protocol.
    pub pvh_entry: Option<u32>,
    /// Whether a note says that this is Linux, whose 64-bit entry takes a zero page.
    pub is_linux: bool,
    /// What to load, in file order.
    pub segments: Vec<Segment>,
}

impl Image {
    /// Reads and checks the headers.
    ///
    /// # Errors
    /// When it is no kernel for this machine, or promises more than the file holds.
    pub fn read(file: &File) -> Result<Self, BootError> {
        let total = length(file, "kernel")?;
        let header = bytes(file, 0, HEADER, total)?;
        if header[4] != 2 || header[5] != 1 || word16(&header, 18) != MACHINE_X86_64 {
            return Err(BootError::Unsupported("it is an ELF file, but not for 64-bit x86".to_string()));
        }
        let (table, size, count) = (word64(&header, 32), word16(&header, 54), word16(&header, 56) as usize);
        if usize::from(size) != PROGRAM_HEADER || count == 0 || count > MAX_PROGRAM_HEADERS {
            return Err(BootError::Damaged(format!("it has {count} program headers of {size} bytes")));
        }
        let headers = bytes(file, table, count * PROGRAM_HEADER, total)?;
        let mut image =
            Image { entry: word64(&header, 24), pvh_entry: None, is_linux: false, segments: Vec::new() };
        for header in headers.chunks_exact(PROGRAM_HEADER) {
            image.program_header(file, header, total)?;
        }
        if image.segments.is_empty() {
            return Err(BootError::Damaged("it has nothing to load".to_string()));
        }
        image.no_overlap()?;
        let inside = |address: u64| {
            image.segments.iter().any(|s| (s.address..s.address + s.memory_size).contains(&address))
        };
        let start = image.pvh_entry.filter(|_| !image.is_linux).map_or(image.entry, u64::from);
        if !inside(start) {
            return Err(BootError::Damaged(format!("its entry point {start:#x} is in none of its segments")));
        }
        Ok(image)
    }

    /// Which of two segments wins would be an accident.
    fn no_overlap(&self) -> Result<(), BootError> {
        let mut segments = self.segments.clone();
        segments.sort_by_key(|segment| segment.address);
        match segments.windows(2).find(|pair| pair[0].address + pair[0].memory_size > pair[1].address) {
            Some(pair) => Err(BootError::Damaged(format!(
                "its segments at {:#x} and {:#x} overlap",
                pair[0].address, pair[1].address
            ))),
            None => Ok(()),
        }
    }

    /// Looks whether `ram` bytes of RAM are enough for all segments; returns the end of the last.
    ///
    /// # Errors
    /// When they are not.
    pub fn fits(&self, ram: u64) -> Result<u64, BootError> {
        let mut end = 0;
        for segment in &self.segments {
            super::in_ram(ram, segment.address, segment.memory_size, "the kernel's segment")?;
            end = end.max(segment.address + segment.memory_size);
        }
        Ok(end)
    }

    fn program_header(&mut self, file: &File, header: &[u8], total: u64) -> Result<(), BootError> {
        let segment = Segment {
            offset: word64(header, 8),
            address: word64(header, 24),
            file_size: word64(header, 32),
            memory_size: word64(header, 40),
            writable: word32(header, 4) & PF_W != 0,
        };
        match word32(header, 0) {
            PT_LOAD if segment.memory_size > 0 => {
                let file_end = segment.offset.checked_add(segment.file_size);
                if file_end.is_none_or(|end| end > total) {
                    return Err(BootError::Damaged(format!(
                        "a segment needs {} bytes at offset {}, the file has {total}",
                        segment.file_size, segment.offset
                    )));
                }
                if segment.file_size > segment.memory_size
                    || segment.address.checked_add(segment.memory_size).is_none()
                {
                    return Err(BootError::Damaged(
                        "a segment is larger in the file than in memory".to_string(),
                    ));
                }
                self.segments.push(segment);
            }
            PT_NOTE => {
                let size = segment.file_size.min(MAX_NOTES) as usize;
                self.notes(&bytes(file, segment.offset, size, total)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes are triples of name, type and description, each padded to 4 bytes.
    fn notes(&mut self, mut notes: &[u8]) {
        while notes.len() >= 12 {
            let (name_size, size, kind) =
                (word32(notes, 0) as usize, word32(notes, 4) as usize, word32(notes, 8));
            let description = 12 + name_size.min(notes.len()).next_multiple_of(4);
            let end = description + size.min(notes.len()).next_multiple_of(4);
            let (Some(name), Some(value)) = (
                notes.get(12..12 + name_size.min(notes.len())),
                notes.get(description..description + size.min(notes.len())),
            ) else {
                return;
            };
            match name {
                b"Linux\0" => self.is_linux = true,
                b"Xen\0" if kind == NOTE_PVH_ENTRY && value.len() >= 4 => {
                    self.pvh_entry = Some(word32(value, 0))
                }
                _ => {}
            }
            notes = notes.get(end..).unwrap_or(&[]);
        }
    }

    /// Where the segments go that are mapped and not copied.
    pub fn mapped(&self) -> impl Iterator<Item = Range<u64>> {
        let mapped = self.segments.iter().filter(|segment| !segment.writable && segment.file_size > 0);
        mapped.map(|segment| segment.address..segment.address + segment.file_size)
    }

    /// Puts the segments into guest memory; returns the range that they are in. Code and constants are mapped, so that all machines share
    /// them; the rest is copied, into huge pages if the host has some.
    ///
    /// RAM is zero before, so what a segment has in memory beyond the file needs no work; it must be RAM all the same.
    ///
    /// # Errors
    /// When a segment is not in RAM, or cannot be mapped or read.
    pub fn load(&self, memory: &GuestMemoryMmap, file: &File) -> Result<Range<u64>, BootError> {
        const WHAT: &str = "the kernel's segment";
        let end = |segment: &Segment| segment.address + segment.memory_size;
        for Segment { address, memory_size: size, .. } in self.segments.iter().copied() {
            let outside = memory::MemoryError::Outside { what: WHAT, size, address };
            let length = usize::try_from(size).unwrap_or(usize::MAX);
            // Touches nothing: one page that is there already keeps a huge page from being made.
            memory.get_slice(GuestAddress(address), length).map_err(|_| outside)?;
        }
        let start = self.segments.iter().map(|segment| segment.address).min().unwrap_or(0);
        let range = start..self.segments.iter().map(end).max().unwrap_or(0);
        if let Some(written) = self.segments.iter().filter(|s| s.writable).map(|s| s.address).min() {
            let whole = written.next_multiple_of(memory::HUGE_PAGE);
            memory::ram::favour(memory, &(whole..range.end.next_multiple_of(memory::HUGE_PAGE)));
        }
        for segment in &self.segments {
            let put = if segment.writable { memory::file::copy } else { memory::file::load };
            put(memory, file, segment.offset, segment.address, segment.file_size, WHAT)?;
        }
        Ok(range)
    }
}

/// Reads exactly `size` bytes at `offset` of a file of `total` bytes.
fn bytes(file: &File, offset: u64, size: usize, total: u64) -> Result<Vec<u8>, BootError> {
    if offset.checked_add(size as u64).is_none_or(|end| end > total) {
        return Err(BootError::Damaged(format!("it has {total} bytes, {size} more are needed at {offset}")));
    }
    let mut data = vec![0; size];
    file.read_exact_at(&mut data, offset).map_err(|source| BootError::Read { what: "kernel", source })?;
    Ok(data)
}

fn word16(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn word32(data: &[u8], at: usize) -> u32 {
    u32::from(word16(data, at)) | u32::from(word16(data, at + 2)) << 16
}

fn word64(data: &[u8], at: usize) -> u64 {
    u64::from(word32(data, at)) | u64::from(word32(data, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A kernel of one page of code at 1 MiB and a PVH note, built by hand.
    fn kernel(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 0x2000];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&62u16.to_le_bytes());
        file[24..32].copy_from_slice(&0x10_0040u64.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&2u16.to_le_bytes());
        let mut header = |at: usize, kind: u32, offset: u64, address: u64, size: u64, memory: u64| {
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            for (place, value) in [(8, offset), (24, address), (32, size), (40, memory)] {
                file[at + place..at + place + 8].copy_from_slice(&value.to_le_bytes());
            }
        };
        header(64, PT_LOAD, 0x1000, 0x10_0000, 0x1000, 0x3000);
        header(120, PT_NOTE, 0x200, 0, notes.len() as u64, notes.len() as u64);
        file[0x200..0x200 + notes.len()].copy_from_slice(notes);
        file
    }

    const PVH_NOTE: &[u8] = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\x00\x00\x10\0\0\0\0\0";
    const LINUX_NOTE: &[u8] = b"\x06\0\0\0\x01\0\0\0\0\x01\0\0Linux\0\0\0\0\0\0\0";

    fn read(content: &[u8]) -> Result<Image, BootError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Image::read(&file)
    }

    #[test]
    fn finds_segments_entry_and_notes() {
        let image = read(&kernel(&[LINUX_NOTE, PVH_NOTE].concat())).unwrap();
        assert_eq!((image.entry, image.pvh_entry, image.is_linux), (0x10_0040, Some(0x10_0000), true));
        let segment = Segment {
            address: 0x10_0000,
            offset: 0x1000,
            file_size: 0x1000,
            memory_size: 0x3000,
            writable: false,
        };
        assert_eq!(image.segments, [segment]);
        assert!(!read(&kernel(PVH_NOTE)).unwrap().is_linux);
    }

    #[test]
    fn a_cut_off_kernel_is_refused_before_anything_is_loaded() {
        let whole = kernel(PVH_NOTE);
        for length in [5, 63, 64, 100, 0x300, 0x1fff] {
            assert!(matches!(read(&whole[..length]), Err(BootError::Damaged(_))), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_content_panics(mut content in proptest::collection::vec(any::<u8>(), 0..300), patches in proptest::collection::vec((0usize..0x260, any::<u8>()), 0..20)) {
            let _ = read(&content);
            content = kernel(PVH_NOTE);
            for (at, value) in patches {
                content[at] = value;
            }
            if let Ok(image) = read(&content) {
                let memory = memory::ram::allocate(2 << 20, memory::ram::RamOptions::default()).unwrap();
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&content).unwrap();
                let _ = image.load(&memory, &file);
            }
        }
    }
}
