//! The keeper's socket and the commands connected to it.

use super::protocol::{GREETING, MAX_FRAME, Reply, Request};
use guest_protocol::frame::{self, Decoder};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, listen, recv, recvmsg, send, socket_with,
};
use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Commands that may be connected at a time.
const MAX_CONNECTIONS: usize = 1024;

/// Names a connection; never used twice.
pub type ConnectionId = u64;

/// One connected command.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    greeted: bool,
    decoder: Decoder,
    unsent: Vec<u8>,
    closed: bool,
    /// Descriptors that came with the greeting.
    pub stdio: Vec<OwnedFd>,
    /// The process that was executed for it.
    pub process_id: Option<u32>,
}

/// The listening socket and its connections.
#[derive(Debug)]
pub struct Control {
    listener: OwnedFd,
    connections: BTreeMap<ConnectionId, Connection>,
    next: ConnectionId,
}

impl Control {
    /// Listens at `path`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&listener, &SocketAddrUnix::new(path)?)?;
        listen(&listener, 512)?;
        Ok(Control { listener, connections: BTreeMap::new(), next: 1 })
    }

    /// The listening socket.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Connections with what they wait for: id, descriptor, and whether they have something to send.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, BorrowedFd<'_>, bool)> {
        self.connections.iter().map(|(id, c)| (*id, c.fd.as_fd(), !c.unsent.is_empty()))
    }

    /// Takes in a new command.
    pub fn accept(&mut self) {
        while let Ok(fd) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            if self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            let connection = Connection {
                fd,
                greeted: false,
                decoder: Decoder::new(MAX_FRAME),
                unsent: Vec::new(),
                closed: false,
                stdio: Vec::new(),
                process_id: None,
            };
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
    }

    /// Reads from a connection; returns whole requests, and whether it is over.
    pub fn read(&mut self, id: ConnectionId) -> (Vec<Request>, bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return (Vec::new(), true) };
        let mut requests = Vec::new();
        let over = connection.receive(&mut requests).is_err();
        (requests, over)
    }

    /// Queues a reply; the connection may have gone meanwhile.
    pub fn reply(&mut self, id: ConnectionId, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if let Ok(bytes) = frame::encode(reply, MAX_FRAME) {
                connection.unsent.extend_from_slice(&bytes);
            }
            connection.flush();
        }
    }

    /// Sends what is queued on a connection.
    pub fn flush(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.flush();
        }
    }

    /// The connection `id`.
    pub fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// The connection for which process `process_id` was executed.
    pub fn of_process(&self, process_id: u32) -> Option<ConnectionId> {
        self.connections.iter().find(|(_, c)| c.process_id == Some(process_id)).map(|(id, _)| *id)
    }

    /// Connections for which a process was executed whose end they have not been told, with the process.
    pub fn processes(&self) -> Vec<(ConnectionId, u32)> {
        self.connections.iter().filter_map(|(id, c)| Some((*id, c.process_id?))).collect()
    }

    /// Whether there are any.
    pub fn has_processes(&self) -> bool {
        self.connections.values().any(|c| c.process_id.is_some())
    }

    /// Closes a connection.
    pub fn close(&mut self, id: ConnectionId) -> Option<Connection> {
        self.connections.remove(&id)
    }
}

impl Connection {
    fn receive(&mut self, requests: &mut Vec<Request>) -> Result<(), ()> {
        if self.closed {
            return Err(());
        }
        if !self.greeted && !self.greeting()? {
            return Ok(());
        }
        let mut buffer = [0; 16 << 10];
        loop {
            let (count, _) = match recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                other => other.map_err(drop)?,
            };
            if count == 0 {
                return Err(());
            }
            self.decoder.push(&buffer[..count]);
            while let Some(request) = self.decoder.next::<Request>().map_err(drop)? {
                requests.push(request);
            }
        }
    }

    /// Reads the first byte and the descriptors with it.
    fn greeting(&mut self) -> Result<bool, ()> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(&self.fd, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            other => other.map_err(drop)?,
        };
        if got.bytes == 0 || byte[0] != GREETING {
            return Err(());
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.stdio.extend(fds);
            }
        }
        self.greeted = true;
        Ok(true)
    }

    fn flush(&mut self) {
        while !self.unsent.is_empty() && !self.closed {
            match send(&self.fd, &self.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => self.closed = true,
            }
        }
    }
}
