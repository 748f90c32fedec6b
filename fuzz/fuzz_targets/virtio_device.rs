//! A guest with any virtio device: the first byte says which, the rest what its driver does.
#![no_main]

use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use vmm::virtio::mock::devices::{KINDS, bench};
use vmm::virtio::mock::play;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let Some(kind) = bytes.byte() else { return };
    let features = if kind & 0x80 == 0 { u64::MAX } else { bytes.word64() };
    let directory = tempfile::tempdir().expect("a directory to share");
    let kind = KINDS[usize::from(kind & 0x7F) % KINDS.len()];
    let mut bench = bench(kind, directory.path()).expect("files and threads");
    fuzz::bound_files();
    play(&mut *bench.device, features, &fuzz::guest::steps(bytes), &mut *bench.host);
});
