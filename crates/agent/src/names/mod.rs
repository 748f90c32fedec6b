//! Answers where the engine's name server would be, and has the host ask it (`guest_protocol::names`).
//!
//! ```text
//!   program ──► 127.0.0.11:53 ─ filter.rs ─► our port of 127.0.0.11 ──► stream for each question or connection ──► keeper
//! ```
//!
//! Port 53 stays free, as it does under Docker's own rules: a program may be a name server itself. The host ends what takes too long.

mod filter;

use crate::error::{Doing, Result};
use guest_protocol::mux::{Event, Mux, StreamId};
use guest_protocol::names::{self, DATAGRAM_PORT, MAX_QUESTION, MOST, STREAM_PORT};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

/// What listens, and what waits for an answer.
pub struct Names {
    datagrams: UdpSocket,
    listener: TcpListener,
    questions: Vec<Question>,
    connections: Vec<Connection>,
}

/// A question in a datagram.
struct Question {
    stream: StreamId,
    from: SocketAddr,
    /// The part of the answer that has come.
    answer: Vec<u8>,
}

/// A connection of a program.
struct Connection {
    stream: StreamId,
    socket: TcpStream,
    /// The program sends no more.
    finished: bool,
}

impl Names {
    /// Answers in this network namespace.
    ///
    /// # Errors
    /// When there is no port, or the kernel has no BPF programs for addresses.
    pub fn new() -> Result<Names> {
        let what = || "listen for questions to a name server".into();
        let all = Names::listen(names::SERVER).doing(what)?;
        let port = all.datagrams.local_addr().doing(what)?.port();
        filter::install(all.datagrams.as_fd(), port)?;
        Ok(all)
    }

    /// The same port for both protocols.
    fn listen(address: Ipv4Addr) -> std::io::Result<Names> {
        let datagrams = UdpSocket::bind((address, 0))?;
        let listener = TcpListener::bind((address, datagrams.local_addr()?.port()))?;
        datagrams.set_nonblocking(true)?;
        listener.set_nonblocking(true)?;
        let (questions, connections) = Default::default();
        Ok(Names { datagrams, listener, questions, connections })
    }

    fn has_room(&self) -> bool {
        self.questions.len() + self.connections.len() < MOST
    }

    /// What poll(2) should wait for.
    pub fn interests<'a>(&'a self, mux: &'a Mux) -> impl Iterator<Item = (BorrowedFd<'a>, PollFlags)> {
        let new = [self.datagrams.as_fd(), self.listener.as_fd()].map(|file| (file, PollFlags::IN));
        let connections = self.connections.iter().map(|connection| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !connection.finished && mux.sendable(connection.stream) > 0);
            flags.set(PollFlags::OUT, !mux.pending(connection.stream).is_empty());
            (connection.socket.as_fd(), flags)
        });
        let waiting = connections.filter(|(_, flags)| !flags.is_empty());
        new.into_iter().filter(|_| self.has_room()).chain(waiting)
    }

    /// A stream was ended by the host.
    pub fn on_event(&mut self, event: Event) {
        if let Event::Reset(stream) = event {
            self.questions.retain(|question| question.stream != stream);
            self.connections.retain(|connection| connection.stream != stream);
        }
    }

    /// Moves what can be moved. `buffer` is scratch memory, longer than any question.
    pub fn turn(&mut self, mux: &mut Mux, buffer: &mut [u8]) {
        self.questions.retain_mut(|question| question.waits(mux, &self.datagrams));
        self.connections.retain_mut(|connection| connection.goes_on(mux, buffer));
        self.take_questions(mux, buffer);
        while let Some((socket, _)) = self.has_room().then(|| self.listener.accept().ok()).flatten() {
            if socket.set_nonblocking(true).is_ok() {
                let stream = mux.open(STREAM_PORT);
                self.connections.push(Connection { stream, socket, finished: false });
            }
        }
    }

    /// Opens a stream for each. One that does not fit anywhere is lost, as datagrams are: who asked asks again.
    fn take_questions(&mut self, mux: &mut Mux, buffer: &mut [u8]) {
        while self.has_room() {
            let Ok((count, from)) = self.datagrams.recv_from(buffer) else { return };
            let Some(question) = names::framed(&buffer[..count]).filter(|_| count <= MAX_QUESTION) else {
                continue;
            };
            let stream = mux.open(DATAGRAM_PORT);
            if mux.sendable(stream) < question.len() {
                mux.reset(stream);
                continue;
            }
            mux.send(stream, &question);
            mux.finish(stream);
            self.questions.push(Question { stream, from, answer: Vec::new() });
        }
    }
}

impl Question {
    /// Whether the answer is still to come; passes it on.
    fn waits(&mut self, mux: &mut Mux, to: &UdpSocket) -> bool {
        while !mux.pending(self.stream).is_empty() {
            let bytes = mux.pending(self.stream);
            let count = bytes.len();
            self.answer.extend(bytes);
            mux.consume(self.stream, count);
        }
        let Some(message) = names::message(&self.answer) else { return !mux.at_end(self.stream) };
        let _ = to.send_to(message, self.from);
        false
    }
}

impl Connection {
    /// Whether there is more to come; moves what is there, both ways.
    fn goes_on(&mut self, mux: &mut Mux, buffer: &mut [u8]) -> bool {
        let moved = self.take(mux, buffer).and_then(|()| self.give(mux));
        if moved.is_err() {
            mux.reset(self.stream);
        } else if mux.at_end(self.stream) {
            mux.finish(self.stream);
        }
        moved.is_ok() && !mux.at_end(self.stream)
    }

    fn take(&mut self, mux: &mut Mux, buffer: &mut [u8]) -> std::io::Result<()> {
        let room = buffer.len().min(mux.sendable(self.stream));
        if self.finished || room == 0 {
            return Ok(());
        }
        match self.socket.read(&mut buffer[..room]) {
            Ok(0) => {
                self.finished = true;
                mux.finish(self.stream);
            }
            Ok(count) => _ = mux.send(self.stream, &buffer[..count]),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn give(&mut self, mux: &mut Mux) -> std::io::Result<()> {
        while !mux.pending(self.stream).is_empty() {
            match self.socket.write(mux.pending(self.stream)) {
                Ok(count) => mux.consume(self.stream, count),
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_protocol::mux::Side;
    use std::time::Duration;

    struct Both {
        names: Names,
        guest: Mux,
        host: Mux,
    }

    impl Both {
        fn new() -> Self {
            let names = Names::listen(Ipv4Addr::LOCALHOST).unwrap();
            Both { names, guest: Mux::new(Side::Guest), host: Mux::new(Side::Host) }
        }

        fn turn(&mut self) {
            self.names.turn(&mut self.guest, &mut [0; 32 << 10]);
            for _ in 0..2 {
                let output = self.guest.output().to_vec();
                self.guest.sent(output.len());
                self.host.receive(&output).unwrap();
                let output = self.host.output().to_vec();
                self.host.sent(output.len());
                self.guest.receive(&output).unwrap();
            }
            while let Some(event) = self.guest.next_event() {
                self.names.on_event(event);
            }
            self.names.turn(&mut self.guest, &mut [0; 32 << 10]);
        }

        /// What the guest opens, waiting for it.
        fn opened(&mut self) -> (StreamId, u32) {
            for _ in 0..1000 {
                self.turn();
                while let Some(event) = self.host.next_event() {
                    if let Event::Opened { stream, port } = event {
                        return (stream, port);
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("nothing was opened");
        }
    }

    #[test]
    fn a_question_gets_its_answer() {
        let mut both = Both::new();
        let [first, second] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (client, text) in [(&first, b"who?"), (&second, b"what")] {
            client.send_to(text, both.names.datagrams.local_addr().unwrap()).unwrap();
        }
        let streams = [both.opened().0, both.opened().0];
        // The second one is answered first.
        for (stream, client) in [(streams[1], &second), (streams[0], &first)] {
            let question = names::message(both.host.pending(stream)).unwrap().to_vec();
            let answer = [b"answer to ", question.as_slice()].concat();
            both.host.consume(stream, 6);
            assert!(both.host.at_end(stream));
            both.host.send(stream, &names::framed(&answer).unwrap());
            both.host.finish(stream);
            both.turn();
            let mut buffer = [0; 100];
            let count = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..count], answer);
            assert!(!both.host.is_open(stream) && !both.guest.is_open(stream));
        }
        assert!(both.names.questions.is_empty());
    }

    #[test]
    fn what_the_host_refuses_is_forgotten_and_too_many_wait() {
        let mut both = Both::new();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = both.names.datagrams.local_addr().unwrap();
        client.send_to(&[0; MAX_QUESTION + 1], address).unwrap();
        for _ in 0..MOST + 1 {
            client.send_to(b"x", address).unwrap();
        }
        let streams: Vec<_> = (0..MOST).map(|_| both.opened().0).collect();
        both.turn();
        assert_eq!((both.names.questions.len(), both.names.interests(&both.guest).count()), (MOST, 0));
        streams.iter().for_each(|stream| both.host.reset(*stream));
        both.opened();
        assert_eq!(both.names.questions.len(), 1);
    }

    #[test]
    fn a_connection_carries_both_ways_and_ends() {
        let mut both = Both::new();
        let mut client = TcpStream::connect(both.names.listener.local_addr().unwrap()).unwrap();
        client.write_all(b"question").unwrap();
        let (stream, port) = both.opened();
        assert_eq!(port, STREAM_PORT);
        while both.host.pending(stream).is_empty() {
            both.turn();
        }
        assert_eq!(both.host.pending(stream), b"question");
        both.host.consume(stream, 8);
        both.host.send(stream, b"answer");
        both.host.finish(stream);
        both.turn();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
        both.turn();
        assert!(both.names.connections.is_empty() && !both.guest.is_open(stream));
    }
}
