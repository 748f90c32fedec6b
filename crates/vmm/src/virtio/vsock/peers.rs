//! The table of connections: by the guest's and the host's port, by epoll token, and in the order in which they are served.
//!
//! ```text
//!   (guest port, host port) ─► id ─► Peer { Connection, host socket }
//!   turns: ids that may have a packet for the guest, served one packet each, round and round
//!   inner epoll: every host socket, edge-triggered, token = id
//! ```
//!
//! Edge-triggered means that a socket is registered once and reports each change once: a peer that has hung up, or has bytes for which the
//! guest has no room, cannot make the event loop spin.

use super::connection::Connection;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;

/// Most connections at a time, those included whose last bytes are still on their way to the host.
pub const MAX_CONNECTIONS: usize = 1024;

/// Buffer for what a guest sends and the host has not taken, per connection, in bytes.
const WINDOW: u32 = 256 << 10;

/// The same for connections beyond [`WIDE_CONNECTIONS`], so that all buffers together stay below 32 MiB.
const NARROW_WINDOW: u32 = 16 << 10;

/// How many connections have the wide window.
const WIDE_CONNECTIONS: usize = 64;

/// Ports of connections that the host opens begin here: programs in the guest listen below.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// A connection's ports: the guest's, the host's.
pub type Ports = (u32, u32);

/// One connection and its socket.
pub struct Peer {
    /// State.
    pub connection: Connection,
    /// The guest's and the host's port.
    pub ports: Ports,
    /// `None` when neither direction is of use any more.
    pub socket: Option<OwnedFd>,
    /// The socket may have bytes, or its end.
    pub readable: bool,
    /// The end of the guest's bytes was passed on to the socket.
    pub write_ended: bool,
    /// The socket was told that nobody reads.
    pub read_ended: bool,
    in_turn: bool,
}

/// All connections.
pub struct Peers {
    peers: BTreeMap<u64, Peer>,
    ids: BTreeMap<Ports, u64>,
    turns: VecDeque<u64>,
    epoll: OwnedFd,
    next_id: u64,
    next_port: u32,
}

impl Peers {
    /// Watches with `epoll`, which has no other tokens than those of [`Peers::new_id`].
    pub fn new(epoll: OwnedFd) -> Self {
        let (peers, ids, turns) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { peers, ids, turns, epoll, next_id: 0, next_port: FIRST_HOST_PORT }
    }

    /// The epoll with all sockets.
    pub fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// A token never used before.
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A host port that no connection uses.
    pub fn new_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).filter(|next| *next < u32::MAX).unwrap_or(FIRST_HOST_PORT);
            // At most MAX_CONNECTIONS ports are in use.
            if self.ids.keys().all(|ports| ports.1 != port) {
                return port;
            }
        }
    }

    /// Whether no more connections are possible now.
    pub fn is_full(&self) -> bool {
        self.peers.len() >= MAX_CONNECTIONS
    }

    /// Window for the next connection, in bytes.
    pub fn next_window(&self) -> u32 {
        if self.peers.len() < WIDE_CONNECTIONS { WINDOW } else { NARROW_WINDOW }
    }

    /// Adds a connection, whose socket is registered under `id` unless it already is (`registered`).
    ///
    /// # Errors
    /// When the kernel refuses to watch the socket.
    pub fn add(
        &mut self,
        id: u64,
        ports: Ports,
        connection: Connection,
        socket: OwnedFd,
        registered: bool,
    ) -> io::Result<()> {
        if !registered {
            watch(&self.epoll, &socket, id)?;
        }
        let socket = Some(socket);
        let peer = Peer {
            connection,
            ports,
            socket,
            readable: true,
            write_ended: false,
            read_ended: false,
            in_turn: false,
        };
        self.peers.insert(id, peer);
        self.ids.insert(ports, id);
        self.take_turn(id);
        Ok(())
    }

    /// The connection with these ports, as far as the guest knows.
    pub fn find(&self, ports: Ports) -> Option<u64> {
        self.ids.get(&ports).copied()
    }

    /// A connection.
    pub fn get(&mut self, id: u64) -> Option<&mut Peer> {
        self.peers.get_mut(&id)
    }

    /// Puts a connection at the end of the turns if it may have a packet for the guest.
    pub fn take_turn(&mut self, id: u64) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !peer.in_turn
            && peer.connection.next(peer.readable).is_some()
        {
            peer.in_turn = true;
            self.turns.push_back(id);
        }
    }

    /// The connection whose turn it is.
    pub fn next_turn(&mut self) -> Option<u64> {
        let id = self.turns.pop_front()?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.in_turn = false;
        }
        Some(id)
    }

    /// Whether a connection may have a packet for the guest.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// After any change: passes ends on to the socket and forgets what is over. True when a place became free.
    pub fn settle(&mut self, id: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        peer.pass_on_ends();
        if peer.connection.is_gone() && self.ids.get(&peer.ports) == Some(&id) {
            self.ids.remove(&peer.ports);
        }
        let over = peer.connection.is_gone() && peer.socket.is_none();
        match over {
            true => drop(self.peers.remove(&id)),
            false => self.take_turn(id),
        }
        over
    }

    /// Forgets every connection; the sockets are closed.
    pub fn clear(&mut self) {
        self.peers.clear();
        self.ids.clear();
        self.turns.clear();
    }

    /// How many connections there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.peers.len()
    }
}

/// Makes a socket non-blocking and registers it with the inner epoll, edge-triggered.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn watch(epoll: &OwnedFd, socket: &OwnedFd, id: u64) -> io::Result<()> {
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    rustix::io::ioctl_fionbio(socket, true)?;
    Ok(epoll::add(epoll, socket, EventData::new_u64(id), flags)?)
}

impl Peer {
    fn pass_on_ends(&mut self) {
        use rustix::net::{Shutdown, shutdown};
        let Some(socket) = &self.socket else { return };
        if self.connection.host_is_done() {
            (self.socket, self.readable) = (None, false);
            return;
        }
        // The only failure is a peer that has left, of which the socket tells by itself.
        if self.connection.guest_is_done_sending() && !self.write_ended {
            self.write_ended = true;
            let _ = shutdown(socket, Shutdown::Write);
        }
        if self.connection.guest_is_done_receiving() && !self.read_ended {
            self.read_ended = true;
            let _ = shutdown(socket, Shutdown::Read);
        }
    }
}
