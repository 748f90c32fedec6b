//! Packets for the guest: one of each connection in turn, its payload read from the host's socket into the guest's buffer.

use super::connection::Outgoing;
use super::packet::{HEADER_LENGTH, HOST_CID, Header, Op, STREAM};
use super::peers::Peer;
use super::{MAX_RESETS, PACKETS_PER_CALL, Vsock};
use crate::virtio::device::DeviceError;
use crate::virtio::guest_io::Iovecs;
use crate::virtio::ring::Buffers;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use vm_memory::GuestMemoryMmap;

/// `id` of `struct virtio_vsock_event` (virtio 1.2, 5.10.6.7): VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

impl Vsock {
    /// Fills receive buffers while there are packets and buffers. True when a further call has something to do.
    pub(super) fn give_packets(&mut self) -> Result<bool, DeviceError> {
        let Some(memory) = self.active.as_ref().map(|active| active.rx.memory().clone()) else {
            return Ok(false);
        };
        let stalled = self.resets.len() >= MAX_RESETS;
        let mut given = 0;
        while given < PACKETS_PER_CALL && (!self.resets.is_empty() || self.peers.has_turns()) {
            let Some(active) = &mut self.active else { break };
            let Some(chain) = active.rx.next()? else {
                if active.rx.rearm()? {
                    continue;
                }
                break;
            };
            let written = self.fill(&memory, chain.writable);
            let Some(active) = &mut self.active else { break };
            let Some(written) = written else {
                active.rx.undo();
                break;
            };
            active.rx.complete(chain.head, written)?;
            given += 1;
        }
        if let Some(active) = &mut self.active {
            active.rx.signal()?;
        }
        Ok(given == PACKETS_PER_CALL || stalled && self.resets.len() < MAX_RESETS)
    }

    /// Puts one packet into a receive buffer. `None` when there is no packet after all.
    fn fill(&mut self, memory: &GuestMemoryMmap, room: Buffers) -> Option<u32> {
        let (head, payload) = room.split(HEADER_LENGTH as u64);
        if payload.is_empty() {
            // No room for a byte of data: nothing that Linux does.
            return Some(0);
        }
        if let Some(reset) = self.resets.pop_front() {
            return Some(head.write(memory, &reset.to_bytes()) as u32);
        }
        while let Some(id) = self.peers.next_turn() {
            let Some(peer) = self.peers.get(id) else { continue };
            let packet = peer.next_packet(memory, &payload);
            if let Some(packet) = packet {
                let header = peer.header(self.cid, packet);
                peer.connection.emitted(packet);
                self.peers.settle(id);
                return Some(head.write(memory, &header.to_bytes()) as u32 + header.len);
            }
            self.peers.settle(id);
        }
        None
    }

    /// Delivers the transport reset, if one is due and the driver has given a buffer.
    pub(super) fn send_event(&mut self) -> Result<(), DeviceError> {
        let Some(active) = self.active.as_mut().filter(|_| self.reset_event_due) else { return Ok(()) };
        let Some(ring) = &mut active.event else { return Ok(()) };
        if let Some(chain) = ring.next()? {
            let written = chain.writable.write(ring.memory(), &TRANSPORT_RESET);
            self.reset_event_due = written != TRANSPORT_RESET.len();
            ring.complete(chain.head, written as u32)?;
            ring.signal()?;
        } else {
            ring.rearm()?;
        }
        Ok(())
    }
}

impl Peer {
    /// The connection's next packet, its payload already in the guest's buffer.
    fn next_packet(&mut self, memory: &GuestMemoryMmap, payload: &Buffers) -> Option<Outgoing> {
        loop {
            let packet = self.connection.next(self.readable)?;
            let (Outgoing::Data(credit), Some(socket)) = (packet, &self.socket) else { return Some(packet) };
            let (room, _) = payload.clone().split(u64::from(credit));
            match Iovecs::of(memory, &room).and_then(|mut pieces| pieces.read(socket.as_fd())) {
                Ok(0) => {
                    self.readable = false;
                    self.connection.host_sends_no_more();
                }
                Ok(count) => return Some(Outgoing::Data(count as u32)),
                // Only this, and no short read, tells that the next edge will be reported.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => {
                    self.readable = false;
                    self.connection.host_takes_no_more();
                    self.connection.host_sends_no_more();
                }
            }
        }
    }

    fn header(&self, cid: u64, packet: Outgoing) -> Header {
        let (op, flags, len) = match packet {
            Outgoing::Control(op, flags) => (op, flags, 0),
            Outgoing::Data(count) => (Op::Data, 0, count),
        };
        Header {
            src_cid: HOST_CID,
            dst_cid: cid,
            src_port: self.ports.1,
            dst_port: self.ports.0,
            len,
            kind: STREAM,
            op: op as u16,
            flags,
            buf_alloc: self.connection.window(),
            fwd_cnt: self.connection.forwarded(),
        }
    }
}
