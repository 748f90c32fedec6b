//! Bytes: many of them, over many connections, half-closed, and with a side that does not read.

use super::super::packet::{Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::guest::{BUFFER, Guest};
use super::{guest_and_listener, sockets};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

const MUCH: usize = 20 << 20;

/// Bytes that repeat after a prime number of them, so that a lost or doubled buffer shows.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (((at + seed) % 65_521 * 31) >> 3) as u8).collect()
}

/// The guest's program: sends `data` as the credit allows and collects what comes back, until the end of both.
fn exchange(guest: &mut Guest, port: u32, host_port: u32, data: &[u8]) -> Vec<u8> {
    let (mut sent, mut read, mut ended) = (0, Vec::new(), false);
    while !ended || sent < data.len() {
        if sent < data.len() {
            let count = (data.len() - sent).min(guest.room(port, host_port) as usize).min(64 << 10);
            if count > 0 {
                guest.send(port, host_port, Op::Data, 0, &data[sent..sent + count]);
                sent += count;
                if sent == data.len() {
                    guest.send(port, host_port, Op::Shutdown, SHUTDOWN_SEND, &[]);
                }
            }
        }
        let Some((header, payload)) = guest.poll(5) else { continue };
        guest.consume(port, host_port, payload.len());
        read.extend(payload);
        match Op::from_wire(header.op).unwrap() {
            Op::CreditRequest => guest.send(port, host_port, Op::CreditUpdate, 0, &[]),
            Op::Shutdown => ended |= header.flags & SHUTDOWN_SEND != 0,
            Op::Reset => panic!("reset after {sent} and {} bytes", read.len()),
            _ => {}
        }
    }
    read
}

/// A program of the host that sends back what it gets.
fn echo(mut stream: UnixStream) {
    let mut buffer = vec![0; 100_000];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return stream.shutdown(Shutdown::Write).unwrap();
        }
        stream.write_all(&buffer[..count]).unwrap();
    }
}

#[test]
fn twenty_megabytes_there_and_back() {
    let (mut guest, listener, _directory) = guest_and_listener();
    let host = std::thread::spawn(move || echo(listener.accept().unwrap().0));
    guest.connect(1000, 5000);
    let data = pattern(MUCH, 0);
    assert!(exchange(&mut guest, 1000, 5000, &data) == data, "the bytes are not the same");
    host.join().unwrap();
    guest.send(1000, 5000, Op::Shutdown, SHUTDOWN_BOTH, &[]);
    assert_eq!(guest.expect(1000, 5000), (Op::Reset, vec![]));
    assert_eq!(guest.device.peers.len(), 0);
}

#[test]
fn twenty_megabytes_for_a_program_of_the_host_that_connects() {
    let (mut guest, _listener, directory) = guest_and_listener();
    let path = directory.path().join("v");
    let host = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"CONNECT 4\n").unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
        }
        let mut writer = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            writer.write_all(&pattern(MUCH, 7)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        writer.join().unwrap();
        all
    });
    let (request, _) = guest.receive();
    guest.send(4, request.src_port, Op::Response, 0, &[]);
    let got = exchange(&mut guest, 4, request.src_port, &pattern(MUCH, 3));
    assert!(got == pattern(MUCH, 7), "the bytes for the guest are not the same");
    assert!(host.join().unwrap() == pattern(MUCH, 3), "the bytes for the host are not the same");
}

#[test]
fn many_connections_take_turns() {
    let (mut guest, listener, _directory) = guest_and_listener();
    let mut hosts = Vec::new();
    for port in 0..300 {
        guest.connect(port, 5000);
        hosts.push(listener.accept().unwrap().0);
    }
    // All have much to say; buffers come one by one.
    guest.settle();
    guest.refills = false;
    hosts.iter_mut().for_each(|host| host.write_all(&[7; 60_000]).unwrap());
    let mut order = Vec::new();
    while order.len() < 3000 {
        guest.refills = true;
        let (header, payload) = guest.receive();
        if header.op == Op::Data as u16 {
            order.push(header.dst_port);
            guest.consume(header.dst_port, 5000, payload.len());
        }
        guest.settle();
    }
    // Ten packets each on average. Sockets are noticed in batches, so the first ones are a little ahead.
    for port in 0..300 {
        let served = order.iter().filter(|served| **served == port).count();
        assert!((7..=13).contains(&served), "connection {port} had {served} turns of 3000");
    }
    for (port, host) in hosts.iter_mut().enumerate() {
        guest.send(port as u32, 5000, Op::Data, 0, &(port as u32).to_le_bytes());
        let mut bytes = [0; 4];
        host.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), port as u32);
    }
}

#[test]
fn connections_are_bounded_and_a_free_place_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("v_5000")).unwrap();
    let mut guest = Guest::new(sockets(&directory));
    let mut hosts = Vec::new();
    for port in 0..400 {
        guest.connect(port, 5000);
        hosts.push(listener.accept().unwrap().0);
    }
    assert_eq!(guest.device.peers.len(), 400);
    for port in 0..400 {
        guest.send(port, 5000, Op::Reset, 0, &[]);
    }
    assert_eq!(guest.device.peers.len(), 0);
    for mut host in hosts {
        assert_eq!(host.read(&mut [0; 4]).unwrap(), 0);
    }
}

#[test]
fn half_close_of_the_guest() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1, 5000);
    let (mut host, _) = listener.accept().unwrap();
    guest.send(1, 5000, Op::Data, 0, b"all of it");
    guest.send(1, 5000, Op::Shutdown, SHUTDOWN_SEND, &[]);
    let mut all = String::new();
    host.read_to_string(&mut all).unwrap();
    assert_eq!(all, "all of it");
    host.write_all(b"answer").unwrap();
    assert_eq!(guest.expect(1, 5000), (Op::Data, b"answer".to_vec()));

    guest.send(1, 5000, Op::Shutdown, SHUTDOWN_RECEIVE, &[]);
    assert_eq!(guest.expect(1, 5000), (Op::Reset, vec![]));
    assert_eq!(host.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn half_close_of_the_host() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1, 5000);
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(1, 5000), (Op::Data, b"question".to_vec()));
    let (header, _) = guest.receive();
    assert_eq!((header.op, header.flags), (Op::Shutdown as u16, SHUTDOWN_SEND));
    guest.send(1, 5000, Op::Data, 0, b"answer");
    let mut bytes = [0; 6];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"answer");
    drop(host);
    let (header, _) = guest.receive();
    assert_eq!((header.op, header.flags), (Op::Shutdown as u16, SHUTDOWN_BOTH));
    guest.send(1, 5000, Op::Reset, 0, &[]);
    assert_eq!(guest.device.peers.len(), 0);
}

#[test]
fn a_host_that_writes_and_leaves_is_heard_to_the_end() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1, 5000);
    let (mut host, _) = listener.accept().unwrap();
    let data = pattern(100_000, 1);
    host.write_all(&data).unwrap();
    drop(host);
    let (mut read, mut flags) = (Vec::new(), 0);
    while flags != SHUTDOWN_BOTH {
        let (header, payload) = guest.receive();
        read.extend(payload);
        flags |= header.flags;
    }
    assert!(read == data);
    guest.send(1, 5000, Op::Shutdown, SHUTDOWN_BOTH, &[]);
    assert_eq!(guest.expect(1, 5000), (Op::Reset, vec![]));
    guest.nothing_more();
}

#[test]
fn a_host_that_does_not_read_holds_up_nobody_else() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1, 5000);
    let (mut slow, _) = listener.accept().unwrap();
    guest.connect(2, 5000);
    let (mut quick, _) = listener.accept().unwrap();
    let mut sent = 0;
    while guest.room(1, 5000) > 0 {
        let count = (guest.room(1, 5000) as usize).min(50_000);
        guest.send(1, 5000, Op::Data, 0, &pattern(count, sent));
        sent += count;
        guest.settle();
        while guest.poll(0).is_some() {}
    }
    guest.send(2, 5000, Op::Data, 0, b"still here");
    let mut bytes = [0; 10];
    quick.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
    guest.nothing_more();

    // The guest closes; what it sent still arrives.
    guest.send(1, 5000, Op::Shutdown, SHUTDOWN_BOTH, &[]);
    assert_eq!(guest.expect(1, 5000), (Op::Reset, vec![]));
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        slow.read_to_end(&mut all).map(|_| all.len()).unwrap()
    });
    while guest.device.peers.len() > 1 {
        guest.poll(5);
    }
    assert_eq!(reader.join().unwrap(), sent);
}

#[test]
fn a_guest_that_does_not_read_gets_no_more_than_its_buffer_and_nothing_spins() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.state_buffer = 10_000;
    guest.connect(1, 5000);
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(&pattern(50_000, 0)).unwrap();
    drop(host);
    let (mut read, mut asked) = (Vec::new(), 0);
    guest.settle();
    while let Some((header, payload)) = guest.poll(0) {
        read.extend(payload);
        asked += usize::from(header.op == Op::CreditRequest as u16);
    }
    assert_eq!((read.len(), asked), (10_000, 1));
    // The peer has hung up and there is no credit: no file of the device may be ready.
    guest.settle();
    assert!(!guest.driver.pump(&mut guest.device, 0).unwrap());
    while read.len() < 50_000 {
        guest.consume(
            1,
            5000,
            read.len() - read.len() / 10_000 * 10_000 + 10_000 * usize::from(read.len() % 10_000 == 0),
        );
        guest.send(1, 5000, Op::CreditUpdate, 0, &[]);
        guest.settle();
        while let Some((_, payload)) = guest.poll(0) {
            read.extend(payload);
        }
    }
    assert!(read == pattern(50_000, 0));
}

#[test]
fn without_receive_buffers_everything_waits_and_nothing_spins() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1, 5000);
    let (mut host, _) = listener.accept().unwrap();
    guest.settle();
    guest.refills = false;
    host.write_all(&pattern(150_000, 0)).unwrap();
    host.set_nonblocking(true).unwrap();
    while host.write(&pattern(1000, 0)).is_ok() {
        guest.settle();
    }
    guest.settle();
    assert!(!guest.driver.pump(&mut guest.device, 0).unwrap(), "a file is ready although there is no buffer");
    guest.refill();
    let mut read = Vec::new();
    while read.len() < 150_000 {
        let (_, payload) = guest.receive();
        guest.consume(1, 5000, payload.len());
        read.extend(payload);
        if read.len() > BUFFER as usize / 2 {
            guest.send(1, 5000, Op::CreditUpdate, 0, &[]);
        }
    }
    assert!(read[..150_000] == pattern(150_000, 0));
}
