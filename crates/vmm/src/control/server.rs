//! Who is connected, and whose turn it is.

use super::Commands;
use super::connection::{Connection, Turn};
use super::socket::Socket;
use crate::event_loop::{EventLoop, LoopError};
use crate::vcpu::exit::ExitReason;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::os::fd::OwnedFd;

/// Most clients at a time; for one more, the one that has been silent for longest has to go.
const MAX_CLIENTS: usize = 8;

/// Number of the listener in the event loop; clients have those behind it.
const LISTENER: u16 = 0;

/// A client, and what the event loop watches of it.
struct Client {
    connection: Connection,
    full: bool,
    /// Has lines that no event will tell of.
    more: bool,
    /// When it last had a turn.
    last: u64,
}

/// The server.
pub struct Server {
    listener: Option<OwnedFd>,
    accepting: bool,
    clients: [Option<Client>; MAX_CLIENTS],
    turns: u64,
}

impl Server {
    /// Serves `socket` from now on.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn new(events: &EventLoop, socket: Socket) -> Result<Self, LoopError> {
        let mut server = Server { listener: None, accepting: false, clients: Default::default(), turns: 0 };
        match socket {
            Socket::Listening(listener) => {
                server.listener = Some(listener);
                server.set_accepting(events, true)?;
            }
            Socket::Connected(socket) => server.admit(events, 0, socket)?,
        }
        Ok(server)
    }

    /// The file is ready that was watched as `number`.
    pub fn ready(
        &mut self,
        events: &mut EventLoop,
        commands: &mut dyn Commands,
        number: u16,
    ) -> Option<ExitReason> {
        match number {
            LISTENER => {
                self.accept(events);
                None
            }
            client => self.turn(events, commands, usize::from(client) - 1),
        }
    }

    /// Goes on with the clients that have more lines.
    pub fn woken(&mut self, events: &mut EventLoop, commands: &mut dyn Commands) -> Option<ExitReason> {
        let _ = self.set_accepting(events, true);
        for index in 0..MAX_CLIENTS {
            if self.clients[index].as_mut().is_some_and(|client| std::mem::take(&mut client.more))
                && let Some(reason) = self.turn(events, commands, index)
            {
                return Some(reason);
            }
        }
        None
    }

    fn turn(
        &mut self,
        events: &mut EventLoop,
        commands: &mut dyn Commands,
        index: usize,
    ) -> Option<ExitReason> {
        let client = self.clients.get_mut(index)?.as_mut()?;
        self.turns += 1;
        client.last = self.turns;
        match client.connection.turn(events, commands) {
            Turn::Waits => {}
            Turn::More => {
                client.more = true;
                events.waker().wake();
            }
            Turn::Over => self.forget(events, index),
            Turn::Ended(reason) => return Some(reason),
        }
        if let Some(client) = &mut self.clients[index]
            && client.full != client.connection.is_full()
        {
            client.full = !client.full;
            if events
                .watch_control(&client.connection.fd(), number(index), !client.full, client.full)
                .is_err()
            {
                self.forget(events, index);
            }
        }
        None
    }

    fn accept(&mut self, events: &EventLoop) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let failed = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => {
                let index = self.place(events);
                self.admit(events, index, socket).is_err()
            }
            Err(error) => error != Errno::AGAIN && error != Errno::INTR,
        };
        // For want of descriptors it would fail at once again: it is tried when something else has happened.
        if failed {
            let _ = self.set_accepting(events, false);
        }
    }

    /// A free place, made free if need be.
    fn place(&mut self, events: &EventLoop) -> usize {
        let age = |client: &Option<Client>| client.as_ref().map_or(0, |client| client.last + 1);
        let index = (0..MAX_CLIENTS).min_by_key(|index| age(&self.clients[*index])).unwrap_or_default();
        self.forget(events, index);
        index
    }

    fn admit(&mut self, events: &EventLoop, index: usize, socket: OwnedFd) -> Result<(), LoopError> {
        let connection = Connection::new(socket);
        events.watch_control(&connection.fd(), number(index), true, false)?;
        self.turns += 1;
        self.clients[index] = Some(Client { connection, full: false, more: false, last: self.turns });
        Ok(())
    }

    fn forget(&mut self, events: &EventLoop, index: usize) {
        if let Some(client) = self.clients[index].take() {
            let _ = events.watch_control(&client.connection.fd(), number(index), false, false);
            let _ = self.set_accepting(events, true);
        }
    }

    fn set_accepting(&mut self, events: &EventLoop, accepting: bool) -> Result<(), LoopError> {
        let Some(listener) = &self.listener else { return Ok(()) };
        if accepting != self.accepting {
            events.watch_control(listener, LISTENER, accepting, false)?;
            self.accepting = accepting;
        }
        Ok(())
    }
}

fn number(index: usize) -> u16 {
    index as u16 + 1
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
