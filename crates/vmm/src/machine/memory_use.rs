//! What the machine's process uses of the host's memory, by `/proc/self/smaps_rollup` (proc(5)): walks the page tables, so it is
//! read when somebody asks, and not before.

use crate::control::answers::MemoryStats;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// More than the file has: about 25 lines.
const SIZE: usize = 4096;

/// Opens it, before the jail in which there is no /proc. `None` for a kernel before 4.14.
pub fn open() -> Option<File> {
    File::open("/proc/self/smaps_rollup").ok()
}

/// Reads it.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn read(rollup: Option<&File>) -> io::Result<MemoryStats> {
    let missing = || io::Error::new(io::ErrorKind::Unsupported, "the host has no /proc/self/smaps_rollup");
    let mut text = [0; SIZE];
    let length = rollup.ok_or_else(missing)?.read_at(&mut text, 0)?;
    Ok(parse(&String::from_utf8_lossy(&text[..length])))
}

fn parse(text: &str) -> MemoryStats {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    };
    MemoryStats {
        rss: bytes("Rss"),
        pss: bytes("Pss"),
        private: bytes("Private_Clean") + bytes("Private_Dirty"),
        shared: bytes("Shared_Clean") + bytes("Shared_Dirty"),
        swap: bytes("Swap"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_kernel() {
        let text = "00400000-7ffc [rollup]\nRss:   1024 kB\nPss:    7 kB\nPss_Anon:   1 kB\nShared_Clean:  3 kB\nShared_Dirty: 1 kB\nPrivate_Clean: 2 kB\nPrivate_Dirty: 8 kB\nSwap: 0 kB\nSwapPss: 9 kB\n";
        let expected =
            MemoryStats { rss: 1 << 20, pss: 7 << 10, private: 10 << 10, shared: 4 << 10, swap: 0 };
        assert_eq!(parse(text), expected);
        assert_eq!(parse("Rss: many kB\nPss"), MemoryStats::default());
    }

    #[test]
    fn more_memory_shows() {
        let Some(file) = open() else { return };
        let before = read(Some(&file)).unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = read(Some(&file)).unwrap();
        assert!(after.rss >= before.rss + (32 << 20), "{before:?} {after:?}");
        drop(block);
        assert!(read(None).is_err());
    }
}
