//! Files of this machine, and bounds for what an input may do to them.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Once;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Longest file that a target may make, bytes.
const LONGEST_FILE: u64 = 8 << 20;

/// An empty file in memory.
pub fn memory_file() -> File {
    File::from(rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a file in memory"))
}

/// Guest memory at these addresses, of these sizes, that goes when it is dropped: a machine's own stays as long as its process.
pub fn memory(ranges: &[(u64, u64)]) -> Option<GuestMemoryMmap> {
    let ranges: Vec<_> = ranges.iter().map(|(start, size)| (GuestAddress(*start), *size as usize)).collect();
    GuestMemoryMmap::from_ranges(&ranges).ok()
}

/// From now on no file grows beyond some MiB: a guest may ask for any length. An attempt fails with EFBIG. And a write to nobody fails
/// with EPIPE, as in every Rust program: libFuzzer's `main` does not see to that.
pub fn bound_files() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGXFSZ, libc::SIGPIPE] {
            // SAFETY: ignored, the call itself fails. No handler of ours is replaced.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        let limit = getrlimit(Resource::Fsize);
        let bounded = Rlimit { current: Some(LONGEST_FILE), maximum: limit.maximum };
        setrlimit(Resource::Fsize, bounded).expect("a lower limit");
    });
}

/// Whether a descriptor that is known to be open is ready now.
pub fn is_ready(fd: RawFd, readable: bool, writable: bool) -> bool {
    let flags = [(readable, PollFlags::IN), (writable, PollFlags::OUT)];
    let flags = flags.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag).collect();
    // SAFETY: open for as long as the device that named it, which the caller holds.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .is_ok_and(|ready| ready > 0)
}
