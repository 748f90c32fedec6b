//! The socket device (virtio 1.2, section 5.10): byte streams between programs of the guest and of the host, without a kernel
//! module on the host: each connection is a UNIX stream socket there.
//!
//! ```text
//!   tx queue ─► from_guest.rs ─► Peers ─► writev to the host's socket, the rest is kept (credit bounds it)
//!   rx queue ◄─ to_guest.rs ◄── turns ◄── readv from the socket straight into the guest's buffer
//!   event queue ◄─ transport reset       ▲
//!   event loop ── inner epoll, listener ─┘ from_host.rs
//!
//!   packet.rs: the header      connection.rs: one connection's rules, pure      host.rs: where connections go and come from
//! ```
//!
//! Nothing here waits: sockets do not block, and a slow peer costs its own connection's window only. A packet is
//! read from a socket only when the guest has given credit and a buffer for it.

pub mod connection;
mod from_guest;
mod from_host;
pub mod host;
pub mod packet;
mod peers;
mod to_guest;

#[cfg(test)]
mod tests;

use super::counters::Counters;
use super::device::{Activation, Device, DeviceError, Watch};
use super::ring::{RING_FEATURES, Ring};
use host::HostSide;
use packet::Header;
use peers::Peers;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

pub use packet::HOST_CID;

/// Device type (virtio 1.2, 5).
const KIND: u32 = 19;

/// Index of the event queue; 0 receives, 1 transmits.
const EVENT: u16 = 2;

/// Linux fills the first with buffers of 4 KiB: 128 of them hold two windows of a socket.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// Packets handled in one call of the event loop, so that other devices have their turn.
const PACKETS_PER_CALL: usize = 256;

/// Refusals waiting for a receive buffer. When there are more, the guest's packets wait.
const MAX_RESETS: usize = 256;

/// Tokens for the event loop.
const SOCKETS: u64 = 0;
const LISTENER: u64 = 1;

/// The device.
pub struct Vsock {
    cid: u64,
    host: HostSide,
    peers: Peers,
    /// Programs of the host that have not yet said which port they want.
    greetings: BTreeMap<u64, OwnedFd>,
    /// RST for packets that belong to no connection.
    resets: VecDeque<Header>,
    counters: Arc<Counters>,
    active: Option<Active>,
    /// Accepting failed, for example for want of file descriptors: not tried again before something else happens.
    accept_paused: bool,
    reset_event_due: bool,
}

struct Active {
    rx: Ring,
    tx: Ring,
    event: Option<Ring>,
}

impl Vsock {
    /// A device for the guest with context id `cid`, at least 3.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new(cid: u64, host: HostSide) -> io::Result<Self> {
        if let Some(sockets) = &host.sockets {
            sockets.listener.set_nonblocking(true)?;
        }
        Ok(Self {
            cid,
            host,
            peers: Peers::new(rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?),
            greetings: BTreeMap::new(),
            resets: VecDeque::new(),
            counters: Arc::default(),
            active: None,
            accept_paused: false,
            reset_event_due: false,
        })
    }

    /// Ends every connection and tells the driver that its sockets are dead (virtio 1.2, 5.10.6.7): after a restore the
    /// host's ends do not exist any more.
    ///
    /// # Errors
    /// When the event queue is broken.
    pub fn transport_reset(&mut self) -> Result<(), DeviceError> {
        self.peers.clear();
        self.greetings.clear();
        self.resets.clear();
        self.reset_event_due = true;
        self.send_event()
    }

    /// Everything that can be done now, up to the budget of one call.
    fn work(&mut self) -> Result<(), DeviceError> {
        self.accept_paused = false;
        let more = self.take_packets()?;
        if self.give_packets()? || more {
            self.active.iter().for_each(|active| active.tx.kick_again());
        }
        Ok(())
    }
}

impl Device for Vsock {
    fn name(&self) -> &str {
        "vsock"
    }

    fn kind(&self) -> u32 {
        KIND
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    /// `struct virtio_vsock_config` is the guest's context id (5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.cid.to_le_bytes();
        let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
        let count = rest.len().min(data.len());
        data[..count].copy_from_slice(&rest[..count]);
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, queues, features, interrupt } = activation;
        let mut rings = queues.into_iter().map(|queue| {
            let ring =
                queue.map(|queue| Ring::new("vsock", queue, features, &memory, &interrupt)).transpose()?;
            Ok(ring.map(|ring| ring.counted(&self.counters)))
        });
        let mut next = || rings.next().unwrap_or(Ok(None));
        let (Some(rx), Some(tx), event) = (next()?, next()?, next()?) else {
            return Err(broken("while activating: the receive or the transmit queue is missing"));
        };
        self.active = Some(Active { rx, tx, event });
        self.send_event()?;
        self.work()
    }

    fn kick(&mut self, index: u16) -> Result<(), DeviceError> {
        match index {
            EVENT => self.send_event(),
            _ => self.work(),
        }
    }

    fn watches(&self) -> Vec<Watch> {
        if self.active.is_none() {
            return Vec::new();
        }
        let watch =
            |fd: &dyn AsRawFd, token| Watch { fd: fd.as_raw_fd(), token, readable: true, writable: false };
        let mut watches = vec![watch(self.peers.epoll(), SOCKETS)];
        let accepts = !self.accept_paused && !self.peers.is_full();
        if let Some(sockets) = self.host.sockets.as_ref().filter(|_| accepts) {
            watches.push(watch(&sockets.listener, LISTENER));
        }
        watches
    }

    fn ready(&mut self, token: u64) -> Result<(), DeviceError> {
        if self.active.is_none() {
            return Ok(());
        }
        if token == LISTENER {
            self.accept();
            return Ok(());
        }
        self.host_events().map_err(|error| broken(format!("while asking for socket events: {error}")))?;
        self.work()
    }

    fn reset(&mut self) {
        self.peers.clear();
        self.greetings.clear();
        self.resets.clear();
        self.active = None;
        self.reset_event_due = false;
    }
}

fn broken(reason: impl Into<String>) -> DeviceError {
    DeviceError { device: "vsock".into(), reason: reason.into() }
}
