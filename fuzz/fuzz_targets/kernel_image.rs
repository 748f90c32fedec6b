//! A kernel file: what is in it lands in the guest's RAM, or is refused by one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Write;
use vmm::boot::{self, Source};
use vmm::memory::ram;

/// Bytes of RAM: room for a small kernel where Linux wants to be.
const RAM: u64 = 48 << 20;

fuzz_target!(|content: &[u8]| {
    let mut kernel = fuzz::memory_file();
    kernel.write_all(content).expect("room in memory");
    let memory = fuzz::memory(&ram::ranges(RAM)).expect("room in memory");
    let source = Source {
        kernel: &kernel,
        initramfs: Some(&kernel),
        cmdline: "quiet",
        vcpus: 2,
        ioapic: true,
        ram: RAM,
    };
    match boot::load(&memory, &source) {
        Ok(loaded) => {
            for range in loaded.files() {
                assert!(range.start < range.end && range.end <= RAM, "{range:?} is not in RAM");
            }
        }
        Err(error) => fuzz::check_message(&error.to_string()),
    }
});
