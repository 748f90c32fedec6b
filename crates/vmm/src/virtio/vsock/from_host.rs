//! What happens on the host's sockets: programs that ask for a connection, bytes, room and ends.

use super::Vsock;
use super::connection::Connection;
use super::host::{Greeting, greeting};
use super::peers::watch;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventFlags};
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;

/// Programs that have connected and not yet said what they want. The oldest has to go when one more comes.
const MAX_GREETINGS: usize = 64;

/// Connections accepted, and events handled, in one call of the event loop.
const EVENTS_PER_CALL: usize = 64;

impl Vsock {
    /// Programs have connected to the listener.
    pub(super) fn accept(&mut self) {
        for _ in 0..EVENTS_PER_CALL {
            let Some(sockets) = &self.host.sockets else { return };
            let stream = match sockets.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.accept_paused = error.kind() != ErrorKind::WouldBlock;
                    return;
                }
            };
            let (id, socket) = (self.peers.new_id(), stream.into());
            if watch(self.peers.epoll(), &socket, id).is_err() {
                self.accept_paused = true;
                return;
            }
            if self.greetings.len() == MAX_GREETINGS {
                self.greetings.pop_first();
            }
            self.greetings.insert(id, socket);
        }
    }

    /// Handles what the inner epoll reports, up to a number; it reports the rest again.
    pub(super) fn host_events(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_PER_CALL);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(self.peers.epoll(), spare_capacity(&mut events), Some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            self.host_event(event);
        }
        Ok(())
    }

    fn host_event(&mut self, event: Event) {
        let (id, flags) = (event.data.u64(), event.flags);
        if self.greetings.contains_key(&id) {
            return self.greeted(id);
        }
        let Some(peer) = self.peers.get(id) else { return };
        if peer.socket.is_none() {
            return;
        }
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if gone {
            peer.connection.host_takes_no_more();
        }
        peer.readable |= gone || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        peer.flush();
        if gone && !peer.connection.wants_host_data() {
            peer.connection.host_sends_no_more();
        }
        self.peers.settle(id);
    }

    fn greeted(&mut self, id: u64) {
        let Some(socket) = self.greetings.remove(&id) else { return };
        let stream = UnixStream::from(socket);
        match greeting(&stream) {
            Greeting::Incomplete => drop(self.greetings.insert(id, stream.into())),
            Greeting::Port(port) if !self.peers.is_full() => {
                let ports = (port, self.peers.new_port());
                let connection = Connection::requested(self.peers.next_window());
                // Cannot fail: the socket is registered already.
                let _ = self.peers.add(id, ports, connection, stream.into(), true);
            }
            Greeting::Port(_) | Greeting::Refused => {}
        }
    }
}
