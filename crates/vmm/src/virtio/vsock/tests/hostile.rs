//! Guests that break the rules: nothing panics, memory is bounded, and other connections go on.

use super::super::connection::Connection;
use super::super::packet::{HOST_CID, Header, Op};
use super::guest::CID;
use super::{HostSide, Vsock, guest_and_listener};
use crate::virtio::device::Device;
use crate::virtio::mock;
use proptest::prelude::*;
use std::io::Read;

fn header() -> impl Strategy<Value = Header> {
    let cid = || prop_oneof![8 => Just(CID), 8 => Just(HOST_CID), 1 => any::<u64>()];
    let port = || prop_oneof![8 => 0..3u32, 8 => Just(5000), 1 => any::<u32>()];
    let length = prop_oneof![8 => 0..100u32, 1 => any::<u32>()];
    let kind = prop_oneof![9 => Just(1u16), 1 => any::<u16>()];
    let op = prop_oneof![9 => 0..9u16, 1 => any::<u16>()];
    (cid(), cid(), port(), port(), length, kind, op, 0..5u32, any::<u32>(), any::<u32>()).prop_map(
        |(src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt)| Header {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len,
            kind,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        },
    )
}

proptest! {
    // A device that spins takes long to fail: looking for the shortest way there is bounded, in milliseconds.
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn any_packets(packets in prop::collection::vec((header(), 0..120usize), 1..80)) {
        let (mut guest, listener, _directory) = guest_and_listener();
        listener.set_nonblocking(true).unwrap();
        let mut hosts = Vec::new();
        // A guest of the test counts credit; this one lies about it.
        guest.state_buffer = u32::MAX;
        for (header, length) in packets {
            guest.send_raw(&header, &vec![1; length]);
            hosts.extend(listener.accept().map(|(stream, _)| stream));
            guest.settle();
        }
        prop_assert!(guest.device.peers.len() <= 80);
    }

    #[test]
    fn any_rings(steps in mock::steps()) {
        let mut device = Vsock::new(CID, HostSide::default()).unwrap();
        mock::abuse(&mut device, u64::MAX, &steps);
    }
}

#[test]
fn packets_from_and_to_other_machines_are_dropped() {
    let (mut guest, _listener, _directory) = guest_and_listener();
    let good = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: 1,
        dst_port: 6000,
        kind: 1,
        op: 1,
        ..Header::default()
    };
    guest.send_raw(&Header { src_cid: CID + 1, ..good }, &[]);
    guest.send_raw(&Header { dst_cid: 1, ..good }, &[]);
    guest.nothing_more();
    guest.send_raw(&Header { kind: 2, ..good }, &[]);
    let (answer, _) = guest.receive();
    assert_eq!((answer.op, answer.kind), (Op::Reset as u16, 2));
}

#[test]
fn a_length_beyond_the_chain_ends_the_connection() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1, 5000);
    let (mut host, _) = listener.accept().unwrap();
    let lie = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: 1,
        dst_port: 5000,
        len: 9,
        kind: 1,
        op: 5,
        ..Header::default()
    };
    guest.send_raw(&lie, b"short");
    assert_eq!(guest.expect(1, 5000), (Op::Reset, vec![]));
    assert_eq!(host.read(&mut [0; 9]).unwrap(), 0);
}

#[test]
fn more_than_the_credit_ends_that_connection_only() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1, 5000);
    guest.connect(2, 5000);
    let _unread = listener.accept().unwrap();
    let (mut other, _) = listener.accept().unwrap();
    for _ in 0..20 {
        guest.send(1, 5000, Op::Data, 0, &[1; 60_000]);
    }
    while guest.expect(1, 5000).0 != Op::Reset {}
    guest.send(2, 5000, Op::Data, 0, b"fine");
    let mut bytes = [0; 4];
    other.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"fine");
}

#[test]
fn refusals_without_receive_buffers_stop_the_guest_and_not_the_host() {
    let (mut guest, _listener, _directory) = guest_and_listener();
    guest.settle();
    guest.refills = false;
    let stray = |port| Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: port,
        dst_port: 1,
        kind: 1,
        op: 5,
        ..Header::default()
    };
    let (mut sent, mut taken) = (0, 0);
    loop {
        while sent - taken < 32 {
            guest.queue_raw(&stray(sent), &[]);
            sent += 1;
        }
        guest.driver.kick(&mut guest.device, 1).unwrap();
        let more = guest.driver.used(1).len() as u32;
        taken += more;
        if more == 0 {
            break;
        }
        assert!(guest.device.resets.len() <= 256 && taken < 1000);
    }
    // The buffers come back: the waiting packets are taken without a further kick of theirs.
    guest.refill();
    let mut answers = 0;
    while answers < sent {
        guest.receive();
        answers += 1;
    }
    taken += guest.driver.used(1).len() as u32;
    assert_eq!(taken, sent);
}

#[test]
fn all_places_taken_refuses() {
    let (mut guest, listener, _directory) = guest_and_listener();
    let (epoll, mut pairs) = (guest.device.peers.epoll().try_clone().unwrap(), Vec::new());
    drop(epoll);
    while !guest.device.peers.is_full() {
        let (id, port) = (guest.device.peers.new_id(), guest.device.peers.new_port());
        let window = guest.device.peers.next_window();
        let connection = Connection::requested(window);
        // One socket for all: only the places count here.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        pairs.push((theirs, window));
        guest.device.peers.add(id, (1, port), connection, ours.into(), false).unwrap();
    }
    assert!(pairs.iter().map(|(_, window)| *window as u64).sum::<u64>() < 32 << 20);
    guest.device.kick(0).unwrap();
    while guest.poll(0).is_some() {}
    guest.send(9, 5000, Op::Request, 0, &[]);
    assert_eq!(guest.expect(9, 5000), (Op::Reset, vec![]));
    drop(listener);
}
