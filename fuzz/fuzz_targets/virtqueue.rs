//! A queue in guest memory of any content: what comes out of it is sound (see `virtio/ring.rs`), and it ends.
#![no_main]

use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm::virtio::device::{ActiveQueue, Interrupt};
use vmm::virtio::mock::Interrupts;
use vmm::virtio::ring::{Buffers, MAX_SEGMENTS, Ring};
use vmm::virtio::transport::queue::QueueSetup;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of each of two pieces of RAM, with a hole in between.
const PIECE: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let Some(flags) = bytes.byte() else { return };
    let memory = GuestMemoryMmap::<()>::from_ranges(&[
        (GuestAddress(0), PIECE),
        (GuestAddress(2 * PIECE as u64), PIECE),
    ])
    .expect("memory");
    let mut setup = QueueSetup::new(256);
    setup.set_size(bytes.word16());
    let mut address = || if flags & 1 == 0 { u64::from(bytes.word16()) } else { bytes.word64() };
    (setup.descriptors, setup.available, setup.used) = (address(), address(), address());
    setup.enabled = true;
    let features = u64::from(flags & 6) << 27;
    let Ok(Some(queue)) = setup.build(&memory, features) else { return };
    // The rest is what lies in memory, from the descriptors on.
    let _ = memory.write(bytes.0, GuestAddress(setup.descriptors));
    let kick = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let interrupt: Arc<dyn Interrupt> = Arc::new(Interrupts::default());
    let queue = ActiveQueue { index: 0, queue, kick };
    let Ok(mut ring) = Ring::new("fuzz", queue, features, &memory, &interrupt) else { return };
    for round in 0..600_u32 {
        match ring.next() {
            Ok(Some(chain)) => {
                assert!(chain.head < ring.size());
                assert!(sound(&memory, &chain.readable) && sound(&memory, &chain.writable));
                if round % 7 == 3 {
                    ring.undo();
                } else if ring
                    .complete(chain.head, chain.writable.write(&memory, &[0x55; 40]) as u32)
                    .is_err()
                {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                fuzz::check_message(&error.to_string());
                assert!(matches!(ring.next(), Ok(None)), "a broken ring hands out nothing");
                break;
            }
        }
        let _ = (ring.signal(), ring.rearm());
    }
});

fn sound(memory: &GuestMemoryMmap, buffers: &Buffers) -> bool {
    let inside = |segment: &vmm::virtio::ring::Segment| {
        memory.get_slices(segment.address, segment.len as usize).all(|slice| slice.is_ok())
    };
    let length = buffers.segments().iter().map(|segment| u64::from(segment.len)).sum::<u64>();
    buffers.segments().len() <= MAX_SEGMENTS
        && length == buffers.len()
        && buffers.segments().iter().all(inside)
}
