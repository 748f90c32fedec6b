//! A kernel file that can be loaded.

/// Offsets of the ELF header and of its two program headers.
const SEGMENT: usize = 64;
const NOTES: usize = 120;
/// Where the notes are.
const NOTES_AT: usize = 0x200;

/// An ELF kernel of a page at 1 MiB with a PVH note, and, if `linux`, with a note that makes it one.
pub fn kernel(linux: bool) -> Vec<u8> {
    let notes = [
        if linux { b"\x06\0\0\0\x01\0\0\0\0\x01\0\0Linux\0\0\0\0\0\0\0".as_slice() } else { &[] },
        b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\x00\x00\x10\0\0\0\0\0",
    ]
    .concat();
    let mut file = vec![0; 0x2000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01");
    put(18, &62_u16.to_le_bytes());
    put(24, &0x10_0040_u64.to_le_bytes());
    put(32, &(SEGMENT as u64).to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    let mut header = |at: usize, kind: u32, fields: [u64; 4]| {
        put(at, &kind.to_le_bytes());
        for (place, value) in [8, 24, 32, 40].into_iter().zip(fields) {
            put(at + place, &value.to_le_bytes());
        }
    };
    header(SEGMENT, 1, [0x1000, 0x10_0000, 0x1000, 0x3000]);
    header(NOTES, 4, [NOTES_AT as u64, 0, notes.len() as u64, notes.len() as u64]);
    put(NOTES_AT, &notes);
    file
}
