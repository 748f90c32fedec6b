//! A guest's driver for tests: sends packets, receives them, and counts credit as Linux does.

use super::super::packet::{HEADER_LENGTH, HOST_CID, Header, Op, STREAM};
use super::super::{Vsock, host::HostSide};
use crate::virtio::mock::Driver;
use std::collections::{BTreeMap, VecDeque};

pub const CID: u64 = 3;
const RX: usize = 0;
const TX: usize = 1;
/// As Linux has them.
const RX_BUFFER: u32 = 4096;
const RX_BUFFERS: usize = 64;
const TX_BUFFER: usize = 64 << 10;
/// What the guest states as its receive buffer, in bytes.
pub const BUFFER: u32 = 256 << 10;

/// The credit of one connection.
#[derive(Default, Clone, Copy)]
struct Credit {
    sent: u32,
    received: u32,
    consumed: u32,
    peer_window: u32,
    peer_forwarded: u32,
}

pub struct Guest {
    pub device: Vsock,
    pub driver: Driver,
    rx: BTreeMap<u32, u64>,
    tx: u64,
    event: u64,
    received: VecDeque<(Header, Vec<u8>)>,
    credit: BTreeMap<(u32, u32), Credit>,
    /// Whether receive buffers go back to the device.
    pub refills: bool,
    pub state_buffer: u32,
    looks: u32,
}

/// Looks at the device's files in one test, far beyond what any needs: a loop that waits for what never comes ends here, and not never.
const MOST_LOOKS: u32 = 1_000_000;

impl Guest {
    pub fn new(host: HostSide) -> Self {
        let mut device = Vsock::new(CID, host).unwrap();
        let mut driver = Driver::new(&mut device, u64::MAX);
        let (tx, event) = (driver.alloc((TX_BUFFER + HEADER_LENGTH) as u64), driver.alloc(16));
        let mut guest = Self {
            device,
            driver,
            rx: BTreeMap::new(),
            tx,
            event,
            received: VecDeque::new(),
            credit: BTreeMap::new(),
            refills: true,
            state_buffer: BUFFER,
            looks: 0,
        };
        guest.fill();
        guest
    }

    fn fill(&mut self) {
        for _ in 0..RX_BUFFERS {
            let address = self.driver.alloc(u64::from(RX_BUFFER));
            self.add_rx(address);
        }
        self.driver.kick(&mut self.device, RX).unwrap();
    }

    fn add_rx(&mut self, address: u64) {
        // The header in a descriptor of its own and in front of the payload: both are legal.
        let parts = [(address, 44, true), (address + 44, RX_BUFFER - 44, true)];
        let whole = [(address, RX_BUFFER, true)];
        let head = self.driver.add(RX, if self.rx.len().is_multiple_of(2) { &parts } else { &whole });
        self.rx.insert(u32::from(head), address);
    }

    pub fn reset(&mut self) {
        self.driver.reset(&mut self.device);
        self.credit.clear();
        let buffers = std::mem::take(&mut self.rx);
        buffers.into_values().for_each(|address| self.add_rx(address));
        self.driver.kick(&mut self.device, RX).unwrap();
    }

    /// A well-formed packet, with this connection's credit.
    pub fn send(&mut self, port: u32, host_port: u32, op: Op, flags: u32, payload: &[u8]) {
        let credit = self.credit.entry((port, host_port)).or_default();
        credit.sent = credit.sent.wrapping_add(payload.len() as u32);
        let header = Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: port,
            dst_port: host_port,
            len: payload.len() as u32,
            kind: STREAM,
            op: op as u16,
            flags,
            buf_alloc: self.state_buffer,
            fwd_cnt: credit.consumed,
        };
        self.send_raw(&header, payload);
    }

    /// Any packet. The device must take it at once.
    pub fn send_raw(&mut self, header: &Header, payload: &[u8]) {
        self.queue_raw(header, payload);
        self.driver.kick(&mut self.device, TX).unwrap();
        assert_eq!(self.driver.used(TX).len(), 1);
    }

    /// Any packet, without a kick.
    pub fn queue_raw(&mut self, header: &Header, payload: &[u8]) {
        let bytes: Vec<u8> = header.to_bytes().into_iter().chain(payload.iter().copied()).collect();
        self.driver.write(self.tx, &bytes);
        // Three pieces, cut in odd places.
        let cuts = [0, 13.min(bytes.len()), (bytes.len() / 2).max(13).min(bytes.len()), bytes.len()];
        let piece = |at: usize| (self.tx + cuts[at] as u64, (cuts[at + 1] - cuts[at]) as u32, false);
        let pieces = [piece(0), piece(1), piece(2)];
        self.driver.add(TX, &pieces);
    }

    fn collect(&mut self) {
        for (head, length) in self.driver.used(RX) {
            let address = self.rx.remove(&head).expect("a buffer that was given");
            assert!(length <= RX_BUFFER);
            let bytes = self.driver.read(address, length as usize);
            let header = Header::from_bytes(bytes[..HEADER_LENGTH].try_into().unwrap());
            let payload = bytes[HEADER_LENGTH..].to_vec();
            assert_eq!((header.len as usize, header.src_cid, header.dst_cid), (payload.len(), HOST_CID, CID));
            let credit = self.credit.entry((header.dst_port, header.src_port)).or_default();
            (credit.peer_window, credit.peer_forwarded) = (header.buf_alloc, header.fwd_cnt);
            credit.received = credit.received.wrapping_add(header.len);
            assert!(
                credit.received.wrapping_sub(credit.consumed) <= self.state_buffer,
                "more than the guest's buffer"
            );
            self.received.push_back((header, payload));
            match self.refills {
                true => self.add_rx(address),
                false => drop(self.rx.insert(u32::MAX - self.rx.len() as u32, address)),
            }
        }
        self.driver.kick(&mut self.device, RX).unwrap();
    }

    /// Gives the buffers back that `refills` held.
    pub fn refill(&mut self) {
        self.refills = true;
        let held: Vec<u32> = self.rx.range(u32::from(u16::MAX) + 1..).map(|(head, _)| *head).collect();
        for head in held {
            let address = self.rx.remove(&head).unwrap();
            self.add_rx(address);
        }
        self.driver.kick(&mut self.device, RX).unwrap();
        self.collect();
    }

    /// Lets the device look at its files; whether one was ready.
    fn pump(&mut self, milliseconds: i32) -> bool {
        self.looks += 1;
        assert!(self.looks < MOST_LOOKS, "what the test waits for does not come");
        self.driver.pump(&mut self.device, milliseconds).unwrap()
    }

    /// A packet, if there is one without waiting longer than `milliseconds`.
    pub fn poll(&mut self, milliseconds: i32) -> Option<(Header, Vec<u8>)> {
        self.collect();
        if self.received.is_empty() {
            self.pump(milliseconds);
            self.collect();
        }
        self.received.pop_front()
    }

    /// The next packet.
    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        for _ in 0..1000 {
            if let Some(packet) = self.poll(100) {
                return packet;
            }
        }
        panic!("no packet came");
    }

    /// The next packet, which must be of this connection.
    pub fn expect(&mut self, port: u32, host_port: u32) -> (Op, Vec<u8>) {
        let (header, payload) = self.receive();
        assert_eq!((header.dst_port, header.src_port), (port, host_port), "{header:?}");
        (Op::from_wire(header.op).unwrap(), payload)
    }

    pub fn connect(&mut self, port: u32, host_port: u32) {
        self.credit.remove(&(port, host_port));
        self.send(port, host_port, Op::Request, 0, &[]);
        assert_eq!(self.expect(port, host_port), (Op::Response, vec![]));
    }

    /// Lets the device do everything that it can do now.
    pub fn settle(&mut self) {
        let mut turns = 0;
        while self.pump(0) {
            turns += 1;
            assert!(turns < 10_000, "the device spins");
        }
        self.collect();
    }

    pub fn nothing_more(&mut self) {
        self.settle();
        assert_eq!(self.received.pop_front(), None);
    }

    /// The guest's program has read `count` bytes.
    pub fn consume(&mut self, port: u32, host_port: u32, count: usize) {
        let credit = self.credit.get_mut(&(port, host_port)).unwrap();
        credit.consumed = credit.consumed.wrapping_add(count as u32);
    }

    /// Bytes that the host's side of a connection has room for.
    pub fn room(&self, port: u32, host_port: u32) -> u32 {
        let credit = self.credit[&(port, host_port)];
        credit.peer_window - credit.sent.wrapping_sub(credit.peer_forwarded)
    }

    /// The event that the device puts into a buffer of the event queue.
    pub fn event(&mut self) -> Vec<u8> {
        self.driver.add(2, &[(self.event, 4, true)]);
        self.driver.kick(&mut self.device, 2).unwrap();
        let used = self.driver.used(2);
        assert_eq!(used.len(), 1);
        self.driver.read(self.event, used[0].1 as usize)
    }
}
