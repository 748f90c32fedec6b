//! The device with a guest that keeps to the protocol, and with one that does not.

mod guest;
mod hostile;
mod streams;

use super::host::{AgentSocket, HostSide, Sockets};
use super::packet::{Op, SHUTDOWN_BOTH};
use super::*;
use guest::Guest;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use tempfile::TempDir;

/// Sockets `v` and `v_<port>` in a directory of their own.
fn sockets(directory: &TempDir) -> HostSide {
    let listener = UnixListener::bind(directory.path().join("v")).unwrap();
    let directory = std::fs::File::open(directory.path()).unwrap().into();
    HostSide { agent: None, sockets: Some(Sockets { directory, name: "v".into(), listener }) }
}

/// A guest, and the host's listener at port 5000.
fn guest_and_listener() -> (Guest, UnixListener, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("v_5000")).unwrap();
    (Guest::new(sockets(&directory)), listener, directory)
}

#[test]
fn identity() {
    let device = Vsock::new(0x1_0000_0003, HostSide::default()).unwrap();
    let mut config = [0xff; 10];
    device.read_config(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff]);
    device.read_config(4, &mut config[..2]);
    assert_eq!(config[..2], [1, 0]);
    device.read_config(u64::MAX, &mut config);
    assert_eq!((device.kind(), device.queue_sizes().len()), (19, 3));
}

#[test]
fn without_the_queues_for_packets_it_does_not_start() {
    let mut device = Vsock::new(3, HostSide::default()).unwrap();
    let (memory, interrupt) =
        (vm_memory::GuestMemoryMmap::new(), Arc::new(super::super::mock::Interrupts::default()));
    let activation = Activation { memory, queues: vec![None, None], features: 0, interrupt };
    assert!(device.activate(activation).unwrap_err().to_string().contains("queue is missing"));
}

#[test]
fn a_port_without_a_listener_is_refused() {
    let (mut guest, _listener, _directory) = guest_and_listener();
    guest.send(1000, 5001, Op::Request, 0, &[]);
    assert_eq!(guest.expect(1000, 5001), (Op::Reset, vec![]));
    guest.send(1000, 5001, Op::Data, 0, b"x");
    assert_eq!(guest.expect(1000, 5001), (Op::Reset, vec![]));
    guest.send(1000, 5001, Op::Reset, 0, &[]);
    guest.nothing_more();
}

#[test]
fn the_agent_channel_is_given_to_the_first_connection_only() {
    let (mut host, agent) = UnixStream::pair().unwrap();
    let agent = AgentSocket { port: 9, socket: Some(agent.into()) };
    let mut guest = Guest::new(HostSide { agent: Some(agent), sockets: None });
    guest.connect(1000, 9);
    guest.send(1000, 9, Op::Data, 0, b"ready");
    let mut bytes = [0; 5];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ready");
    host.write_all(b"go").unwrap();
    assert_eq!(guest.expect(1000, 9), (Op::Data, b"go".to_vec()));
    guest.send(1001, 9, Op::Request, 0, &[]);
    assert_eq!(guest.expect(1001, 9), (Op::Reset, vec![]));

    guest.send(1000, 9, Op::Shutdown, SHUTDOWN_BOTH, &[]);
    assert_eq!(guest.expect(1000, 9), (Op::Reset, vec![]));
    assert_eq!(host.read(&mut bytes).unwrap(), 0, "the host sees the end");
    guest.send(1002, 9, Op::Request, 0, &[]);
    assert_eq!(guest.expect(1002, 9), (Op::Reset, vec![]));
}

#[test]
fn the_host_connects() {
    let (mut guest, _listener, directory) = guest_and_listener();
    let mut client = UnixStream::connect(directory.path().join("v")).unwrap();
    client.write_all(b"CONNECT 77\nearly").unwrap();
    let (request, _) = guest.receive();
    assert_eq!(
        (request.op, request.dst_port, request.src_cid, request.kind),
        (Op::Request as u16, 77, HOST_CID, 1)
    );
    let port = request.src_port;
    assert!(port >= 1 << 30 && request.buf_alloc > 0);
    guest.send(77, port, Op::Response, 0, &[]);
    assert_eq!(guest.expect(77, port), (Op::Data, b"early".to_vec()));
    let mut line = vec![0; format!("OK {port}\n").len()];
    client.read_exact(&mut line).unwrap();
    assert_eq!(line, format!("OK {port}\n").into_bytes());
    guest.send(77, port, Op::Data, 0, b"hello");
    client.read_exact(&mut line[..5]).unwrap();
    assert_eq!(&line[..5], b"hello");
}

#[test]
fn the_guest_refuses_the_host() {
    let (mut guest, _listener, directory) = guest_and_listener();
    let mut client = UnixStream::connect(directory.path().join("v")).unwrap();
    client.write_all(b"CONNECT 77\n").unwrap();
    let (request, _) = guest.receive();
    guest.send(77, request.src_port, Op::Reset, 0, &[]);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), guest.device.peers.len()), ("", 0));
    let mut nonsense = UnixStream::connect(directory.path().join("v")).unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\n").unwrap();
    guest.settle();
    assert_eq!(nonsense.read(&mut [0; 9]).unwrap_or(0), 0);
}

#[test]
fn programs_that_say_nothing_make_room() {
    let (mut guest, _listener, directory) = guest_and_listener();
    let mut clients: Vec<_> =
        (0..100).map(|_| UnixStream::connect(directory.path().join("v")).unwrap()).collect();
    guest.settle();
    assert_eq!(guest.device.greetings.len(), 64);
    assert_eq!(clients[0].read(&mut [0; 9]).unwrap(), 0, "the oldest was closed");
    clients[99].write_all(b"CONNECT 1\n").unwrap();
    assert_eq!(guest.receive().0.op, Op::Request as u16);
}

#[test]
fn a_reset_forgets_everything_but_the_listener() {
    let (mut guest, listener, directory) = guest_and_listener();
    guest.connect(1000, 5000);
    let (mut host, _) = listener.accept().unwrap();
    guest.reset();
    assert_eq!(host.read(&mut [0; 9]).unwrap(), 0);
    assert_eq!(guest.device.peers.len(), 0);
    guest.connect(1000, 5000);
    let _client = UnixStream::connect(directory.path().join("v")).unwrap();
    guest.settle();
    assert_eq!(guest.device.greetings.len(), 1);
}

#[test]
fn a_transport_reset_waits_for_a_buffer() {
    let (mut guest, listener, _directory) = guest_and_listener();
    guest.connect(1000, 5000);
    let _host = listener.accept().unwrap();
    guest.device.transport_reset().unwrap();
    assert_eq!(guest.device.peers.len(), 0);
    assert_eq!(guest.event(), [0, 0, 0, 0]);
    guest.device.kick(EVENT).unwrap();
    assert_eq!(guest.driver.used(2).len(), 0, "told once");
}
