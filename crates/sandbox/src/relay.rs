//! Moves bytes between descriptors of one process: what an exec's stand-in and `cor run -t` do.

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest piece held, in bytes.
const CHUNK: usize = 32 << 10;

/// A pipe takes this many bytes without blocking once poll(2) says it is writable (PIPE_BUF).
const PIPE_ATOMIC: usize = 4096;

/// One direction. Holds at most one piece; never blocks when driven by poll(2).
#[derive(Debug)]
pub struct Relay {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    piece: Vec<u8>,
    written: usize,
}

impl Relay {
    /// Moves from `from` to `to` until end of file, then closes `to` (a socket is shut down for writing).
    pub fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Relay { from: Some(from), to: Some(to), piece: Vec::new(), written: 0 }
    }

    /// Whether it has come to its end.
    pub fn is_done(&self) -> bool {
        self.to.is_none()
    }

    /// What to poll for, if anything.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        if self.piece.is_empty() {
            self.from.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN))
        } else {
            self.to.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT))
        }
    }

    /// Moves one piece a step further; the descriptor of [`Relay::interest`] is ready.
    pub fn step(&mut self) {
        if self.piece.is_empty() { self.fill() } else { self.drain() }
    }

    fn fill(&mut self) {
        let Some(from) = &self.from else { return };
        self.piece.resize(CHUNK, 0);
        let count = match rustix::io::read(from, &mut self.piece[..]) {
            Err(Errno::AGAIN | Errno::INTR) => {
                self.piece.clear();
                return;
            }
            // EIO: the other end of a terminal was closed.
            other => other.unwrap_or(0),
        };
        self.piece.truncate(count);
        self.written = 0;
        if count == 0 {
            self.finish();
        }
    }

    fn drain(&mut self) {
        let Some(to) = &self.to else { return };
        let rest = &self.piece[self.written..];
        match rustix::io::write(to, &rest[..rest.len().min(PIPE_ATOMIC)]) {
            Ok(count) => self.written += count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            // Nobody reads any more: the writer is to learn it by its own EPIPE.
            Err(_) => return self.finish(),
        }
        if self.written == self.piece.len() {
            self.piece.clear();
        }
    }

    fn finish(&mut self) {
        if let Some(to) = self.to.take() {
            let _ = rustix::net::shutdown(&to, rustix::net::Shutdown::Write);
        }
        self.from = None;
        self.piece.clear();
    }

    /// Delivers what can be read without waiting, then ends. For output left when the writer has ended.
    pub fn flush(&mut self) {
        while !self.is_done() {
            let readable = self.from.as_ref().is_some_and(|fd| is_ready(fd.as_fd(), PollFlags::IN));
            if self.piece.is_empty() && !readable {
                return self.finish();
            }
            let writable = self.to.as_ref().map(|fd| wait_for(fd.as_fd(), PollFlags::OUT));
            if writable == Some(false) {
                return self.finish();
            }
            self.step();
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

/// Waits for a reader that is slow, as the program itself would.
fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    loop {
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            other => return other.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn bytes_and_end_of_file_pass() {
        let (read, mut write) = std::io::pipe().unwrap();
        let (mut out, out_write) = std::io::pipe().unwrap();
        let mut relay = Relay::new(read.into(), out_write.into());
        write.write_all(b"hello").unwrap();
        drop(write);
        while !relay.is_done() {
            relay.step();
        }
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn flush_delivers_what_is_there_although_the_writer_stays() {
        let (read, mut write) = std::io::pipe().unwrap();
        let (mut out, out_write) = std::io::pipe().unwrap();
        let mut relay = Relay::new(read.into(), out_write.into());
        write.write_all(b"last words").unwrap();
        relay.flush();
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }
}
