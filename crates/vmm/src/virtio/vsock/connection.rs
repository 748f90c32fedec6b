//! One stream connection between a guest port and a host socket, without any I/O: credit, half-close and reset.
//!
//! ```text
//!                    guest                    Connection                     host socket
//!   packet ──► receive(op, ..) ──► Received::Data ──► forward(n), keep(rest) ──► written at once
//!                                                     kept() ──► forward(n)      written later
//!   packet ◄── emitted(out) ◄── next(readable) ── Outgoing::Data(credit) ◄────── read into the guest's buffer
//!                                                     host_ended(..)    ◄─────── end of stream, hang-up
//!
//!   Phase:  Asking ──(RESPONSE)──► Open ──► Resetting ──(RST emitted)──► Gone
//!           Open: the guest's REQUEST was taken      └──(RST received)──►
//! ```
//!
//! Invariants, which the model test checks: `received - forwarded` is what is kept, and never more than `window`; what was sent to
//! the guest and not consumed by it is never more than the buffer that it stated; bytes keep their order.
//!
//! Counters are modulo 2^32, as in the protocol (virtio 1.2, 5.10.6.3).

use super::packet::{Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use std::collections::VecDeque;

/// An empty buffer that has grown beyond this is given back to the allocator, in bytes.
const KEEP_CAPACITY: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host opens; the guest has not answered. `told`: REQUEST is on its way.
    Asking { told: bool },
    /// Bytes flow. `told`: the guest knows (RESPONSE is on its way, or it was the guest who said so).
    Open { told: bool },
    /// The guest must be told RST.
    Resetting,
    /// For the guest there is no such connection; what is kept may still go to the host.
    Gone,
}

/// What a packet from the guest asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing beyond what the connection has noted.
    Noted,
    /// The guest accepted the connection that the host asked for.
    Established,
    /// The payload belongs to the host: [`Connection::forward`] what it took and [`Connection::keep`] the rest.
    Data,
    /// The packet breaks the protocol: the connection is reset and what was kept is dropped.
    Violation,
}

/// A packet for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// A packet without payload; the flags are those of SHUTDOWN.
    Control(Op, u32),
    /// Payload: at most this many bytes, and at least one.
    Data(u32),
}

/// State of one connection.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    /// Bytes that the guest may have on their way to the host.
    window: u32,
    received: u32,
    forwarded: u32,
    /// `forwarded` as the guest last heard it.
    reported: u32,
    kept: VecDeque<u8>,
    /// The host does not take any more: what the guest sends is dropped.
    deaf: bool,
    update_due: bool,
    sent: u32,
    peer_window: u32,
    peer_forwarded: u32,
    /// CREDIT_REQUEST was sent since the guest last stated that it has room.
    asked: bool,
    guest_shutdown: u32,
    host_shutdown: u32,
    host_shutdown_told: u32,
}

impl Connection {
    /// The guest asked for it, stating its credit.
    pub fn accepted(window: u32, peer_window: u32, peer_forwarded: u32) -> Self {
        Self { peer_window, peer_forwarded, ..Self::new(Phase::Open { told: false }, window) }
    }

    /// The host asks for it.
    pub fn requested(window: u32) -> Self {
        Self::new(Phase::Asking { told: false }, window)
    }

    fn new(phase: Phase, window: u32) -> Self {
        Self {
            phase,
            window,
            received: 0,
            forwarded: 0,
            reported: 0,
            kept: VecDeque::new(),
            deaf: false,
            update_due: false,
            sent: 0,
            peer_window: 0,
            peer_forwarded: 0,
            asked: false,
            guest_shutdown: 0,
            host_shutdown: 0,
            host_shutdown_told: 0,
        }
    }

    /// A packet of the guest, with `length` bytes of payload, stating its credit.
    pub fn receive(
        &mut self,
        op: Option<Op>,
        flags: u32,
        length: u32,
        peer_window: u32,
        peer_forwarded: u32,
    ) -> Received {
        if matches!(self.phase, Phase::Resetting | Phase::Gone) {
            // Sent before the guest could know.
            if op == Some(Op::Reset) {
                self.phase = Phase::Gone;
            }
            return Received::Noted;
        }
        (self.peer_window, self.peer_forwarded) = (peer_window, peer_forwarded);
        // Asking again after an answer of 0 would go on for as long as the guest's program does not read.
        self.asked &= self.credit() == 0;
        match (op, self.phase) {
            (Some(Op::Reset), _) => {
                self.phase = Phase::Gone;
                Received::Noted
            }
            (Some(Op::Response), Phase::Asking { told: true }) => {
                self.phase = Phase::Open { told: true };
                Received::Established
            }
            (Some(Op::Data), Phase::Open { .. }) => self.receive_data(length),
            (Some(Op::Shutdown), Phase::Open { .. }) => {
                self.guest_shutdown |= flags & SHUTDOWN_BOTH;
                if self.guest_shutdown == SHUTDOWN_BOTH {
                    self.phase = Phase::Resetting;
                }
                Received::Noted
            }
            (Some(Op::CreditUpdate), Phase::Open { .. }) => Received::Noted,
            (Some(Op::CreditRequest), Phase::Open { .. }) => {
                self.update_due = true;
                Received::Noted
            }
            _ => self.violation(),
        }
    }

    fn receive_data(&mut self, length: u32) -> Received {
        let used = self.received.wrapping_sub(self.forwarded);
        if self.guest_shutdown & SHUTDOWN_SEND != 0 || length > self.window - used {
            return self.violation();
        }
        self.received = self.received.wrapping_add(length);
        Received::Data
    }

    fn violation(&mut self) -> Received {
        self.reset();
        Received::Violation
    }

    /// Ends the connection at once: what is kept is dropped and the guest is told.
    pub fn reset(&mut self) {
        self.kept = VecDeque::new();
        self.deaf = true;
        self.phase = match self.phase {
            Phase::Asking { told: false } | Phase::Gone => Phase::Gone,
            _ => Phase::Resetting,
        };
    }

    /// The host has taken `count` bytes, of the payload in hand or of what is kept.
    pub fn forward(&mut self, count: usize) {
        self.kept.drain(..count.min(self.kept.len()));
        if self.kept.is_empty() && self.kept.capacity() > KEEP_CAPACITY {
            self.kept = VecDeque::new();
        }
        self.forwarded = self.forwarded.wrapping_add(count as u32);
        // A quarter of the window keeps a fast sender running without an update for each packet.
        if self.forwarded.wrapping_sub(self.reported) >= self.window / 4 {
            self.update_due = true;
        }
    }

    /// Keeps payload that the host could not take yet. Dropped when the host takes nothing any more.
    pub fn keep(&mut self, bytes: &[u8]) {
        match self.deaf {
            true => self.forward(bytes.len()),
            false => self.kept.extend(bytes),
        }
    }

    /// What waits for the host, oldest first.
    pub fn kept(&self) -> &[u8] {
        self.kept.as_slices().0
    }

    /// Whether payload has to queue behind what is kept.
    pub fn is_waiting(&self) -> bool {
        !self.kept.is_empty()
    }

    /// The host's socket gives no more bytes.
    pub fn host_sends_no_more(&mut self) {
        self.host_shutdown |= SHUTDOWN_SEND;
    }

    /// The host's socket takes no more bytes.
    pub fn host_takes_no_more(&mut self) {
        self.host_shutdown |= SHUTDOWN_RECEIVE;
        self.deaf = true;
        self.forward(self.kept.len());
    }

    /// Bytes that the guest has room for. A guest that states nonsense gets none.
    fn credit(&self) -> u32 {
        self.peer_window.saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    /// The packet that the guest should get next, if any. `readable`: the host's socket may have bytes.
    pub fn next(&self, readable: bool) -> Option<Outgoing> {
        let control = |op| Some(Outgoing::Control(op, 0));
        match self.phase {
            Phase::Resetting => control(Op::Reset),
            Phase::Gone | Phase::Asking { told: true } => None,
            Phase::Asking { told: false } => control(Op::Request),
            Phase::Open { told: false } => control(Op::Response),
            Phase::Open { told: true } => self.next_open(readable),
        }
    }

    fn next_open(&self, readable: bool) -> Option<Outgoing> {
        if self.host_shutdown != self.host_shutdown_told {
            return Some(Outgoing::Control(Op::Shutdown, self.host_shutdown));
        }
        let data = readable && self.wants_host_data();
        match self.credit() {
            // Data states our room as well as an update does.
            credit if data && credit > 0 => Some(Outgoing::Data(credit)),
            _ if self.update_due => Some(Outgoing::Control(Op::CreditUpdate, 0)),
            0 if data && !self.asked => Some(Outgoing::Control(Op::CreditRequest, 0)),
            _ => None,
        }
    }

    /// Whether bytes of the host's socket have anywhere to go.
    pub fn wants_host_data(&self) -> bool {
        let ended = self.host_shutdown & SHUTDOWN_SEND | self.guest_shutdown & SHUTDOWN_RECEIVE;
        matches!(self.phase, Phase::Open { .. } | Phase::Asking { .. }) && ended == 0
    }

    /// The packet is in the guest's hands; it carried [`Connection::window`] and [`Connection::forwarded`].
    pub fn emitted(&mut self, packet: Outgoing) {
        (self.reported, self.update_due) = (self.forwarded, false);
        match packet {
            Outgoing::Data(count) => self.sent = self.sent.wrapping_add(count),
            Outgoing::Control(Op::Reset, _) => self.phase = Phase::Gone,
            Outgoing::Control(Op::Request, _) => self.phase = Phase::Asking { told: true },
            Outgoing::Control(Op::Response, _) => self.phase = Phase::Open { told: true },
            Outgoing::Control(Op::Shutdown, flags) => self.host_shutdown_told = flags,
            Outgoing::Control(Op::CreditRequest, _) => self.asked = true,
            Outgoing::Control(..) => {}
        }
    }

    /// Size of the buffer for what comes from the guest, in bytes (`buf_alloc`).
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Bytes that the host has taken, modulo 2^32 (`fwd_cnt`).
    pub fn forwarded(&self) -> u32 {
        self.forwarded
    }

    /// For the guest the connection does not exist any more.
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// The guest sends no more, and the host has all of it.
    pub fn guest_is_done_sending(&self) -> bool {
        self.kept.is_empty() && (self.guest_shutdown & SHUTDOWN_SEND != 0 || self.is_gone())
    }

    /// The guest receives no more.
    pub fn guest_is_done_receiving(&self) -> bool {
        self.guest_shutdown & SHUTDOWN_RECEIVE != 0 || matches!(self.phase, Phase::Resetting | Phase::Gone)
    }

    /// Both directions of the host's socket are of no use any more.
    pub fn host_is_done(&self) -> bool {
        let written = self.guest_is_done_sending() || self.deaf;
        written && (self.guest_is_done_receiving() || self.host_shutdown & SHUTDOWN_SEND != 0)
    }
}

#[cfg(test)]
#[path = "connection_model.rs"]
mod model;
