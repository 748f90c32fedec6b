//! Moves bytes between a stream of the agent channel and a file descriptor, without unbounded memory and without ever
//! blocking the keeper.
//!
//! ```text
//!   stdin:  fd ──read──► Mux::send        only as much as the guest has given credit for
//!   stdout: Mux::pending ──write──► fd    credit goes back to the guest when the bytes were written
//! ```

use guest_protocol::mux::{Mux, StreamId};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Largest read or write in one go, in bytes.
const CHUNK: usize = 32 << 10;

/// A pipe takes this many bytes without blocking once poll(2) says it is writable (PIPE_BUF).
const PIPE_ATOMIC: usize = 4096;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the descriptor to the guest.
    ToGuest,
    /// From the guest to the descriptor.
    FromGuest,
}

/// One stream and its descriptor.
#[derive(Debug)]
pub struct Pump {
    /// The agent's stream.
    pub stream: StreamId,
    /// Which process of the container it belongs to.
    pub process_id: u32,
    /// Which way.
    pub direction: Direction,
    fd: OwnedFd,
    way: Way,
}

/// How to use a descriptor without blocking, and without changing flags that others share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// An open file description of our own, non-blocking.
    Nonblocking,
    /// MSG_DONTWAIT.
    Socket,
    /// A file: never blocks for long. Or something that could not be reopened: small pieces after poll(2).
    Small,
}

/// What a pump did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It goes on; so many bytes were moved.
    Moved(usize),
    /// It has come to its end; drop it.
    Ended,
}

impl Pump {
    /// Connects a stream with a descriptor.
    pub fn new(stream: StreamId, process_id: u32, direction: Direction, fd: OwnedFd) -> Self {
        let (fd, way) = unblock(fd, direction);
        Pump { stream, process_id, direction, fd, way }
    }

    /// Whether it has anything to do as soon as its descriptor is ready.
    pub fn wants(&self, mux: &Mux) -> bool {
        match self.direction {
            Direction::ToGuest => mux.sendable(self.stream) > 0,
            Direction::FromGuest => !mux.pending(self.stream).is_empty(),
        }
    }

    /// The descriptor, for poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }

    /// Moves what can be moved now. The descriptor is ready, or of the kind that can be tried at any time.
    pub fn run(&mut self, mux: &mut Mux) -> Progress {
        if !mux.is_open(self.stream) && mux.pending(self.stream).is_empty() {
            return Progress::Ended;
        }
        match self.direction {
            Direction::ToGuest => self.feed(mux),
            Direction::FromGuest => self.drain(mux),
        }
    }

    /// Whether [`Pump::run`] may be called without poll(2).
    pub fn never_blocks(&self) -> bool {
        self.way != Way::Small
    }

    fn feed(&mut self, mux: &mut Mux) -> Progress {
        let room = mux.sendable(self.stream).min(CHUNK);
        if room == 0 {
            return Progress::Moved(0);
        }
        let mut buffer = [0; CHUNK];
        match rustix::io::read(&self.fd, &mut buffer[..room]) {
            Ok(0) => self.end_of_input(mux),
            Ok(count) => Progress::Moved(mux.send(self.stream, &buffer[..count])),
            Err(Errno::AGAIN | Errno::INTR) => Progress::Moved(0),
            // EIO: the other end of a terminal was closed.
            Err(_) => self.end_of_input(mux),
        }
    }

    fn end_of_input(&self, mux: &mut Mux) -> Progress {
        mux.finish(self.stream);
        Progress::Ended
    }

    fn drain(&mut self, mux: &mut Mux) -> Progress {
        let mut moved = 0;
        loop {
            let bytes = mux.pending(self.stream);
            if bytes.is_empty() {
                if mux.at_end(self.stream) {
                    return Progress::Ended;
                }
                return Progress::Moved(moved);
            }
            match self.write(bytes) {
                Ok(count) => {
                    mux.consume(self.stream, count);
                    moved += count;
                    if self.way == Way::Small {
                        return if mux.at_end(self.stream) {
                            Progress::Ended
                        } else {
                            Progress::Moved(moved)
                        };
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Moved(moved),
                Err(_) => {
                    // The reader is gone (EPIPE) or the disk is full: the program learns it as it would without a VM.
                    mux.reset(self.stream);
                    return Progress::Ended;
                }
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        use rustix::net::{SendFlags, send};
        match self.way {
            Way::Nonblocking => rustix::io::write(&self.fd, &bytes[..bytes.len().min(CHUNK)]),
            Way::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Way::Small => rustix::io::write(&self.fd, &bytes[..bytes.len().min(PIPE_ATOMIC)]),
        }
    }
}

/// Pipes and terminals are reopened, so that O_NONBLOCK is not seen by whoever else holds them.
fn unblock(fd: OwnedFd, direction: Direction) -> (OwnedFd, Way) {
    let kind = fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode));
    match kind {
        Ok(FileType::Socket) => (fd, Way::Socket),
        Ok(FileType::Fifo | FileType::CharacterDevice) => {
            let access = if direction == Direction::ToGuest { OFlags::RDONLY } else { OFlags::WRONLY };
            let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            match open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty()) {
                Ok(own) => (own, Way::Nonblocking),
                Err(_) => (fd, Way::Small),
            }
        }
        _ => (fd, Way::Small),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_protocol::mux::Side;
    use std::fs::File;
    use std::io::{Read, Write};

    fn joined() -> (Mux, Mux, StreamId) {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let stream = guest.open(1024);
        exchange(&mut guest, &mut host);
        (guest, host, stream)
    }

    fn exchange(a: &mut Mux, b: &mut Mux) {
        for _ in 0..4 {
            while !a.output().is_empty() {
                let bytes = a.output().to_vec();
                a.sent(bytes.len());
                b.receive(&bytes).unwrap();
            }
            std::mem::swap(&mut *a, &mut *b);
        }
    }

    #[test]
    fn a_reader_that_is_slow_blocks_nobody_and_loses_nothing() {
        let (mut guest, mut host, stream) = joined();
        let (read, write) = std::io::pipe().unwrap();
        let mut reader = File::from(OwnedFd::from(read));
        let mut pump = Pump::new(stream, 0, Direction::FromGuest, write.into());
        let text: Vec<u8> = (0..600_000u32).map(|i| (i % 251) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        let mut buffer = [0; 7000];
        while got.len() < text.len() {
            sent += guest.send(stream, &text[sent..]);
            exchange(&mut guest, &mut host);
            // Must return although nobody reads while it writes.
            pump.run(&mut host);
            let count = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
            exchange(&mut guest, &mut host);
        }
        assert_eq!(got, text);
        guest.finish(stream);
        exchange(&mut guest, &mut host);
        assert_eq!(pump.run(&mut host), Progress::Ended);
    }

    #[test]
    fn a_reader_that_went_away_resets_the_stream() {
        let (mut guest, mut host, stream) = joined();
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let mut pump = Pump::new(stream, 0, Direction::FromGuest, write.into());
        guest.send(stream, b"x");
        exchange(&mut guest, &mut host);
        assert_eq!(pump.run(&mut host), Progress::Ended);
        exchange(&mut guest, &mut host);
        assert!(!guest.is_open(stream));
    }

    #[test]
    fn end_of_file_becomes_half_close() {
        let (mut guest, mut host, stream) = joined();
        let (read, mut write) = std::io::pipe().unwrap();
        write.write_all(b"bye").unwrap();
        drop(write);
        let mut pump = Pump::new(stream, 0, Direction::ToGuest, read.into());
        assert_eq!(pump.run(&mut host), Progress::Moved(3));
        assert_eq!(pump.run(&mut host), Progress::Ended);
        exchange(&mut guest, &mut host);
        assert_eq!(guest.pending(stream), b"bye");
        guest.consume(stream, 3);
        assert!(guest.at_end(stream));
    }
}
