//! The channel to the host: bytes of the port through the multiplexer, and messages on its control stream.
//!
//! ```text
//!   port ──read──► Mux ──► control stream ──► Decoder ──► Request
//!   port ◄─write── Mux ◄── control stream ◄── backlog ◄── Hello, Reply, Event
//! ```

use crate::error::{Doing, Result, failed};
use guest_protocol::CONTROL_PORT;
use guest_protocol::frame::{Decoder, MAX_TO_GUEST, MAX_TO_HOST, encode};
use guest_protocol::message::{FromAgent, Request};
use guest_protocol::mux::{Event, Mux, Side, StreamId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes read from the port before something else gets its turn.
const READ_TURN: usize = 256 << 10;

/// Most bytes of messages that wait for the host. One that asks and never reads loses its machine.
const MAX_BACKLOG: usize = 4 << 20;

/// How long a host that was told that all is written back may take to cut the power.
const GOODBYE: Duration = Duration::from_secs(5);

/// The channel with its multiplexer and control stream.
pub struct Link {
    port: OwnedFd,
    /// The streams of the channel.
    pub mux: Mux,
    control: StreamId,
    decoder: Decoder,
    backlog: VecDeque<u8>,
}

impl Link {
    /// Opens the control stream on a connected port.
    pub fn new(port: OwnedFd) -> Self {
        let mut mux = Mux::new(Side::Guest);
        let control = mux.open(CONTROL_PORT);
        Link { port, mux, control, decoder: Decoder::new(MAX_TO_GUEST), backlog: VecDeque::new() }
    }

    /// The port, for poll(2).
    pub fn port(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }

    /// Whether bytes wait for the port.
    pub fn has_output(&self) -> bool {
        !self.mux.output().is_empty()
    }

    /// Reads what the host sent, until there is no more or others should have their turn.
    ///
    /// # Errors
    /// When the host is gone or broke the protocol.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut left = READ_TURN;
        while left > 0 {
            match rustix::io::read(&self.port, &mut *buffer) {
                Ok(0) => return Err(failed("the host closed the channel")),
                Ok(n) => {
                    self.mux.receive(&buffer[..n]).map_err(|e| failed(format!("read the channel: {e}")))?;
                    left = left.saturating_sub(n);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).doing(|| "read the channel".into()),
            }
        }
        Ok(())
    }

    /// Writes what waits, as far as the port takes it.
    ///
    /// # Errors
    /// When the host is gone.
    pub fn write(&mut self) -> Result<()> {
        loop {
            self.flush_messages();
            let output = self.mux.output();
            if output.is_empty() {
                return Ok(());
            }
            match rustix::io::write(&self.port, output) {
                Ok(n) => self.mux.sent(n),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).doing(|| "write to the channel".into()),
            }
        }
    }

    /// Ends the control stream, which tells the host that everything was written back, and waits for the host to cut the
    /// power, but not for ever.
    pub fn say_goodbye(&mut self) {
        let end = Instant::now() + GOODBYE;
        self.mux.finish(self.control);
        loop {
            if self.write().is_err() {
                return;
            }
            let out = if self.has_output() { PollFlags::OUT } else { PollFlags::empty() };
            let mut fds = [PollFd::new(&self.port, out)];
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now()));
            match poll(&mut fds, left.ok().as_ref()) {
                Ok(0) | Err(_) => return,
                Ok(_) if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => return,
                Ok(_) => {}
            }
        }
    }

    /// Queues a message for the host.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn send(&mut self, message: &FromAgent) -> Result<()> {
        let frame = encode(message, MAX_TO_HOST).map_err(|e| failed(format!("encode a message: {e}")))?;
        if self.backlog.len() + frame.len() > MAX_BACKLOG {
            return Err(failed("the host does not read what it asked for"));
        }
        self.backlog.extend(frame);
        self.flush_messages();
        Ok(())
    }

    fn flush_messages(&mut self) {
        while !self.backlog.is_empty() {
            let taken = self.mux.send(self.control, self.backlog.as_slices().0);
            if taken == 0 {
                return;
            }
            self.backlog.drain(..taken);
        }
        if self.backlog.capacity() > 64 << 10 {
            self.backlog = VecDeque::new();
        }
    }

    /// The next request, if a whole one has come.
    ///
    /// # Errors
    /// When the host ended the control stream or sent no valid request.
    pub fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            let pending = self.mux.pending(self.control);
            let count = pending.len();
            if count == 0 {
                break;
            }
            self.decoder.push(pending);
            self.mux.consume(self.control, count);
        }
        if let Some(request) = self.decoder.next().map_err(|e| failed(format!("read a request: {e}")))? {
            return Ok(Some(request));
        }
        if self.mux.at_end(self.control) {
            return Err(failed("the host ended the control stream"));
        }
        Ok(None)
    }

    /// The next thing that happened to a stdio stream.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            match self.mux.next_event()? {
                // The agent opens all streams itself.
                Event::Opened { stream, .. } => self.mux.reset(stream),
                event => return Some(event),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_protocol::message::{Request, RequestBody};
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Link, OwnedFd) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (Link::new(ours), theirs)
    }

    #[test]
    fn a_request_comes_through() {
        let (mut link, host) = pair();
        link.write().unwrap();
        let mut mux = Mux::new(Side::Host);
        let mut buffer = [0; 4096];
        let n = rustix::io::read(&host, &mut buffer).unwrap();
        mux.receive(&buffer[..n]).unwrap();
        let Some(Event::Opened { stream, port: CONTROL_PORT }) = mux.next_event() else { panic!() };
        let request = Request { id: 7, body: RequestBody::Shutdown };
        mux.send(stream, &encode(&request, MAX_TO_GUEST).unwrap());
        rustix::io::write(&host, mux.output()).unwrap();
        link.read(&mut buffer).unwrap();
        assert_eq!(link.next_request(), Ok(Some(request)));
        assert_eq!(link.next_request(), Ok(None));
        drop(host);
        assert!(link.read(&mut buffer).is_err());
    }

    #[test]
    fn the_goodbye_ends_the_control_stream_and_waits_for_the_host() {
        let (mut link, host) = pair();
        let host = std::thread::spawn(move || {
            rustix::io::ioctl_fionbio(&host, false).unwrap();
            let mut mux = Mux::new(Side::Host);
            let mut buffer = [0; 4096];
            loop {
                let n = rustix::io::read(&host, &mut buffer).unwrap();
                mux.receive(&buffer[..n]).unwrap();
                while let Some(event) = mux.next_event() {
                    if matches!(event, Event::Finished(_)) {
                        return;
                    }
                }
            }
        });
        link.say_goodbye();
        host.join().unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&link.port, &mut byte), Ok(0), "it came back before the host was gone");
    }

    proptest! {
        /// Bytes from a wild host end the link or ask for more; they never panic.
        #[test]
        fn hostile_bytes_never_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..20)) {
            let (mut link, host) = pair();
            let mut buffer = [0; 4096];
            for payload in frames {
                let mut frame = vec![2, 0];
                frame.extend((payload.len() as u16).to_le_bytes());
                frame.extend(1u32.to_le_bytes());
                frame.extend(payload);
                rustix::io::write(&host, &frame).unwrap();
                if link.read(&mut buffer).is_err() || link.next_request().is_err() { break; }
            }
        }
    }
}
