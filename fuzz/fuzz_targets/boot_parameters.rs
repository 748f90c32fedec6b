//! What a kernel is told about its machine, for any size of it: it fits, it is all there, and nothing is said that is not so.
#![no_main]

use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::io::Write;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm::boot::{self, Source, cmdline, layout};
use vmm::memory::{LOW_RAM_END, ram};

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let Some(flags) = bytes.byte() else { return };
    let (vcpus, initramfs_size) =
        (u32::from(bytes.byte().unwrap_or(0)).max(1), u64::from(bytes.word16()) * 4);
    // Around the hole below 4 GiB, too. Nothing of it is touched.
    let ram = if flags & 4 == 0 {
        u64::from(bytes.word16()) << 20
    } else {
        LOW_RAM_END + u64::from(bytes.word16()) << 12
    };
    let Ok(line) = std::str::from_utf8(bytes.0) else { return };
    let (mut kernel, initramfs) = (fuzz::memory_file(), fuzz::memory_file());
    kernel.write_all(&fuzz::kernel(flags & 1 == 0)).expect("room in memory");
    initramfs.set_len(initramfs_size).expect("a file with a hole");
    let Some(memory) = fuzz::memory(&ram::ranges(ram.max(1 << 20))) else { return };
    let Ok(format) = boot::format(&kernel) else { return };
    let line = cmdline::complete(line, flags & 2 == 0, format);
    let source =
        Source { kernel: &kernel, initramfs: Some(&initramfs), cmdline: &line, vcpus, ioapic: true, ram };
    match boot::load(&memory, &source) {
        Ok(loaded) => {
            assert_eq!(command_line(&memory, line.len()), [line.as_bytes(), b"\0"].concat());
            let low = ram.min(LOW_RAM_END);
            if let Some(range) = &loaded.initramfs {
                let behind = loaded.kernel.iter().all(|kernel| range.start >= kernel.end);
                assert!(behind && range.end <= low, "{range:?}");
            }
            let map = boot::linux::memory_map(ram);
            let usable: u64 = map.iter().filter(|range| range.usable).map(|range| range.size).sum();
            assert_eq!(usable, ram - (layout::HIGH_START - layout::LOW_END));
        }
        Err(error) => fuzz::check_message(&error.to_string()),
    }
});

fn command_line(memory: &GuestMemoryMmap, length: usize) -> Vec<u8> {
    let mut line = vec![1; length + 1];
    memory.read_slice(&mut line, GuestAddress(layout::CMDLINE)).expect("it lies in RAM");
    line
}
