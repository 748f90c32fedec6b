//! Packets of the guest: from the transmit queue to the connections and on to the host's sockets.

use super::connection::{Connection, Received};
use super::packet::{HEADER_LENGTH, HOST_CID, Header, Op, STREAM};
use super::peers::{Peer, Ports};
use super::{MAX_RESETS, PACKETS_PER_CALL, Vsock};
use crate::virtio::device::DeviceError;
use crate::virtio::guest_io::Iovecs;
use crate::virtio::ring::Buffers;
use rustix::net::SendFlags;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use vm_memory::GuestMemoryMmap;

impl Vsock {
    /// Takes packets off the transmit queue. True when there may be more than one call may handle.
    pub(super) fn take_packets(&mut self) -> Result<bool, DeviceError> {
        let Some(memory) = self.active.as_ref().map(|active| active.tx.memory().clone()) else {
            return Ok(false);
        };
        let mut taken = 0;
        while taken < PACKETS_PER_CALL && self.resets.len() < MAX_RESETS {
            let Some(active) = &mut self.active else { break };
            let Some(chain) = active.tx.next()? else {
                if active.tx.rearm()? {
                    continue;
                }
                break;
            };
            // The packet is copied or passed on before the chain is the driver's again.
            let head = chain.head;
            self.packet(&memory, chain.readable);
            if let Some(active) = &mut self.active {
                active.tx.complete(head, 0)?;
            }
            taken += 1;
        }
        if let Some(active) = &mut self.active {
            active.tx.signal()?;
        }
        Ok(taken == PACKETS_PER_CALL)
    }

    fn packet(&mut self, memory: &GuestMemoryMmap, bytes: Buffers) {
        let mut header = [0; HEADER_LENGTH];
        let (head, bytes) = bytes.split(HEADER_LENGTH as u64);
        if head.read(memory, &mut header) < HEADER_LENGTH {
            return;
        }
        let header = Header::from_bytes(&header);
        if header.src_cid != self.cid || header.dst_cid != HOST_CID {
            return;
        }
        let (payload, _) = bytes.split(u64::from(header.len));
        let complete = payload.len() == u64::from(header.len) && header.kind == STREAM;
        let op = Op::from_wire(header.op).filter(|_| complete);
        let ports = (header.src_port, header.dst_port);
        match (self.peers.find(ports), op) {
            (Some(id), _) => self.packet_of(id, op, &header, memory, &payload),
            (None, Some(Op::Reset)) => {}
            (None, Some(Op::Request)) => self.open(ports, &header),
            (None, _) => self.refuse(&header),
        }
    }

    fn packet_of(
        &mut self,
        id: u64,
        op: Option<Op>,
        header: &Header,
        memory: &GuestMemoryMmap,
        payload: &Buffers,
    ) {
        let Some(peer) = self.peers.get(id) else { return };
        match peer.connection.receive(op, header.flags, header.len, header.buf_alloc, header.fwd_cnt) {
            Received::Data => peer.pass_on(memory, payload),
            Received::Established => greet(peer.socket.as_ref(), peer.ports),
            Received::Noted | Received::Violation => {}
        }
        self.peers.settle(id);
    }

    fn open(&mut self, ports: Ports, header: &Header) {
        if self.peers.is_full() {
            return self.refuse(header);
        }
        let Ok(socket) = self.host.connect(ports.1) else { return self.refuse(header) };
        let connection = Connection::accepted(self.peers.next_window(), header.buf_alloc, header.fwd_cnt);
        let id = self.peers.new_id();
        if self.peers.add(id, ports, connection, socket, false).is_err() {
            self.refuse(header);
        }
    }

    fn refuse(&mut self, header: &Header) {
        self.resets.push_back(Header {
            src_cid: HOST_CID,
            dst_cid: self.cid,
            src_port: header.dst_port,
            dst_port: header.src_port,
            kind: header.kind,
            op: Op::Reset as u16,
            ..Header::default()
        });
    }
}

/// Tells the program of the host that the guest has accepted. If it left, the socket tells so by itself.
fn greet(socket: Option<&OwnedFd>, ports: Ports) {
    if let Some(socket) = socket {
        let line = format!("OK {}\n", ports.1);
        let _ = rustix::net::send(socket, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl Peer {
    /// Payload for the host: what the socket takes goes at once, from the guest's memory; the rest is kept.
    fn pass_on(&mut self, memory: &GuestMemoryMmap, payload: &Buffers) {
        let mut passed = 0;
        if let (Some(socket), Ok(mut pieces)) = (&self.socket, Iovecs::of(memory, payload)) {
            while !pieces.is_empty() && !self.connection.is_waiting() {
                match pieces.write(socket.as_fd()) {
                    Ok(count) => {
                        pieces.advance(count);
                        passed += count;
                        self.connection.forward(count);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {
                        self.connection.host_takes_no_more();
                        break;
                    }
                }
            }
        }
        let (_, rest) = payload.clone().split(passed as u64);
        if !rest.is_empty() {
            // At most the connection's window.
            let mut bytes = vec![0; rest.len() as usize];
            rest.read(memory, &mut bytes);
            self.connection.keep(&bytes);
        }
    }

    /// The socket has room again.
    pub(super) fn flush(&mut self) {
        while let Some(socket) = self.socket.as_ref().filter(|_| self.connection.is_waiting()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(socket, self.connection.kept(), flags) {
                Ok(count) => self.connection.forward(count),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.connection.host_takes_no_more(),
            }
        }
    }
}
