//! A client that speaks the protocol as QEMU does, with a guest's memory and a ring of its own.

use super::*;
use crate::jail::Jail;
use crate::machine::devices::{self, Threads};
use crate::virtio::fs::share::ShareOptions;
use std::thread::JoinHandle;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

const SIZE: usize = 1 << 20;
/// Where the guest has its memory; the client has it elsewhere.
const GUEST: u64 = 0x4000_0000;
const DESCRIPTORS: u64 = GUEST;
const AVAILABLE: u64 = GUEST + 0x1000;
const USED: u64 = GUEST + 0x2000;
const REQUEST: u64 = GUEST + 0x3000;
const ANSWER: u64 = GUEST + 0x4000;
/// The first queue for requests.
const QUEUE: usize = 1;

struct Peer {
    front: Frontend,
    memory: GuestMemoryMmap,
    region: VhostUserMemoryRegionInfo,
    kick: EventFd,
    call: EventFd,
    next: u16,
    server: JoinHandle<Result<Option<i32>, ServeError>>,
}

impl Peer {
    fn new(directory: &std::path::Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let root = std::fs::File::open(directory).unwrap().into();
        let threads = Threads::New(Jail::none());
        let fs = devices::share(root, "t", ShareOptions::default(), None, &threads).unwrap();
        // Nobody ever writes to it.
        let signals: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let server = std::thread::spawn(move || serve(fs, ours, signals, || Ok(())));
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = std::fs::File::from(rustix::fs::memfd_create("ram", flags).unwrap());
        file.set_len(SIZE as u64).unwrap();
        let mapped = MmapRegion::from_file(FileOffset::new(file, 0), SIZE).unwrap();
        let region = GuestRegionMmap::new(mapped, GuestAddress(GUEST)).unwrap();
        let info = VhostUserMemoryRegionInfo::from_guest_region(&region).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (front, kick, call) = (Frontend::from_stream(theirs, 2), event(), event());
        Peer { front, memory, region: info, kick, call, next: 0, server }
    }

    fn negotiate(&mut self) {
        self.front.set_owner().unwrap();
        let features = self.front.get_features().unwrap();
        assert_eq!(features & (1 << 32 | 1 << 30 | 1 << 29 | 1 << 28), 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28);
        let protocol = self.front.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ));
        self.front.set_protocol_features(protocol).unwrap();
        self.front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(self.front.get_queue_num().unwrap(), 2);
        self.front.set_features(1 << 32 | 1 << 30).unwrap();
    }

    fn start(&mut self, base: u16) {
        self.front.set_mem_table(&[self.region]).unwrap();
        self.front.set_vring_num(QUEUE, 8).unwrap();
        self.front.set_vring_base(QUEUE, base).unwrap();
        let host = |address: u64| address - GUEST + self.region.userspace_addr;
        let ring = VringConfigData {
            queue_max_size: 8,
            queue_size: 8,
            flags: 0,
            desc_table_addr: host(DESCRIPTORS),
            used_ring_addr: host(USED),
            avail_ring_addr: host(AVAILABLE),
            log_addr: None,
        };
        self.front.set_vring_addr(QUEUE, &ring).unwrap();
        self.front.set_vring_kick(QUEUE, &self.kick).unwrap();
        self.front.set_vring_call(QUEUE, &self.call).unwrap();
        self.front.set_vring_enable(QUEUE, true).unwrap();
    }

    /// Offers a request without ringing.
    fn offer(&mut self, opcode: u32, node: u64, body: &[u8]) {
        let length = 40 + body.len() as u32;
        let header = [length.to_le_bytes(), opcode.to_le_bytes()].concat();
        let rest = [7u64.to_le_bytes(), node.to_le_bytes(), [0; 8], [0; 8]].concat();
        self.memory.write_slice(&[&header[..], &rest, body].concat(), GuestAddress(REQUEST)).unwrap();
        let descriptor = |address: u64, length: u32, flags: u16, next: u16| {
            let fields = [
                &address.to_le_bytes()[..],
                &length.to_le_bytes(),
                &flags.to_le_bytes(),
                &next.to_le_bytes(),
            ];
            fields.concat()
        };
        let table = [descriptor(REQUEST, length, 1, 1), descriptor(ANSWER, 4096, 2, 0)].concat();
        self.memory.write_slice(&table, GuestAddress(DESCRIPTORS)).unwrap();
        self.memory.write_obj(0u16, GuestAddress(AVAILABLE + 4 + 2 * u64::from(self.next % 8))).unwrap();
        self.next += 1;
        self.memory.write_obj(self.next, GuestAddress(AVAILABLE + 2)).unwrap();
    }

    #[expect(unsafe_code, reason = "an eventfd of vmm-sys-util lends no descriptor")]
    /// Waits for the interrupt; the answer's error and body.
    fn answer(&mut self) -> (i32, Vec<u8>) {
        // SAFETY: open as long as `self`.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&self.call)) };
        let patience = rustix::time::Timespec { tv_sec: 60, tv_nsec: 0 };
        let mut poll = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut poll, Some(&patience)).unwrap(), 1, "no interrupt");
        self.call.read().unwrap();
        assert_eq!(self.memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), self.next);
        let length: u32 = self.memory.read_obj(GuestAddress(ANSWER)).unwrap();
        let mut body = vec![0; length as usize - 16];
        self.memory.read_slice(&mut body, GuestAddress(ANSWER + 16)).unwrap();
        (self.memory.read_obj(GuestAddress(ANSWER + 4)).unwrap(), body)
    }

    fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        self.offer(opcode, node, body);
        self.kick.write(1).unwrap();
        self.answer()
    }

    fn init(&mut self) {
        let body = [7u32, 40, 0, 0].map(u32::to_le_bytes).concat();
        let (error, answer) = self.call(26, 0, &[body, vec![0; 48]].concat());
        assert_eq!((error, answer.len(), answer[0]), (0, 64, 7));
    }

    fn end(self) -> Result<Option<i32>, ServeError> {
        drop(self.front);
        self.server.join().unwrap()
    }
}

#[test]
fn a_guest_of_another_vmm_reads_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "text").unwrap();
    let mut peer = Peer::new(directory.path());
    peer.negotiate();
    peer.start(0);
    peer.init();
    let (error, entry) = peer.call(1, 1, b"a\0");
    assert_eq!(error, 0);
    let node = u64::from_le_bytes(entry[..8].try_into().unwrap());
    // Stopped and started again, as for a snapshot: the ring goes on where it was, and the guest's nodes are what they were.
    let base = peer.front.get_vring_base(QUEUE).unwrap();
    assert_eq!(base, u32::from(peer.next));
    peer.offer(3, node, &[0; 16]);
    peer.start(base as u16);
    assert_eq!(peer.answer().0, 0);
    // Memory that moved in our address space, with the ring in use.
    peer.front.set_mem_table(&[peer.region]).unwrap();
    assert_eq!(peer.call(3, node, &[0; 16]).0, 0);
    // A guest that was started afresh knows no nodes.
    peer.init();
    assert_eq!(peer.call(3, node, &[0; 16]).0, -libc::ESTALE);
    assert_eq!(peer.end().unwrap(), None);
}

#[test]
fn what_cannot_be_ends_the_session_with_a_reason() {
    type Step = fn(&mut Peer);
    let steps: [(Step, &str); 5] = [
        (|peer| peer.front.set_features(1 << 40).unwrap_or_default(), "were not offered"),
        (|peer| peer.front.set_vring_num(QUEUE, 4096).unwrap_or_default(), "1024 are possible"),
        (|peer| peer.front.set_vring_num(QUEUE, 7).unwrap_or_default(), "1024 are possible"),
        (
            |peer| {
                peer.region.memory_size *= 2;
                peer.front.set_mem_table(&[peer.region]).unwrap_or_default();
            },
            "guest memory at 0x40000000",
        ),
        (
            |peer| {
                let ring = VringConfigData {
                    queue_max_size: 8,
                    queue_size: 8,
                    flags: 0,
                    desc_table_addr: 0x1000,
                    used_ring_addr: 0x2000,
                    avail_ring_addr: 0x3000,
                    log_addr: None,
                };
                peer.front.set_vring_addr(QUEUE, &ring).unwrap_or_default();
            },
            "share=on",
        ),
    ];
    for (step, reason) in steps {
        let directory = tempfile::tempdir().unwrap();
        let mut peer = Peer::new(directory.path());
        peer.negotiate();
        step(&mut peer);
        let error = peer.end().expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn any_bytes_end_the_session_only() {
    let directory = tempfile::tempdir().unwrap();
    for bytes in [vec![0xff; 400], vec![0; 12], vec![1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let root = std::fs::File::open(directory.path()).unwrap().into();
        let threads = Threads::New(Jail::none());
        let fs = devices::share(root, "t", ShareOptions::default(), None, &threads).unwrap();
        let (signals, _other) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, &bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(serve(fs, ours, signals.into(), || Ok(())).is_err(), "{bytes:?}");
    }
}
