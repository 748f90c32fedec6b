//! Moves bytes between the files of processes and the streams of the channel.
//!
//! ```text
//!   host ──► stream ──pending──► [Pump In ]  ──write──► pipe or terminal ──► process
//!   host ◄── stream ◄──send───── [Pump Out] ◄──read──── pipe or terminal ◄── process
//! ```
//!
//! Nothing is buffered here: an Out pump reads no more than the multiplexer takes, an In pump leaves in the multiplexer
//! what its file does not take; the credit of the streams stops the other side.

use guest_protocol::mux::{Event, Mux, StreamId};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::rc::Rc;

/// Names a process of any container for the life of the agent.
pub type TaskKey = u64;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host to the process.
    In,
    /// From the process to the host.
    Out,
}

/// One direction of a process's standard file.
pub struct Pump {
    /// Whose file it is.
    pub task: TaskKey,
    /// Which way.
    pub direction: Direction,
    stream: StreamId,
    file: Rc<OwnedFd>,
    terminal: bool,
    /// After this the pump is dropped.
    ended: bool,
    /// Out: there was nothing to read at the last attempt.
    dry: bool,
    /// The process has ended.
    last_words: bool,
}

/// All pumps.
#[derive(Default)]
pub struct Streams {
    pumps: Vec<Pump>,
    /// Who has the first turn.
    first: usize,
}

impl Streams {
    /// Opens a stream to `port` of the host and moves bytes between it and `file` (non-blocking).
    pub fn add(
        &mut self,
        mux: &mut Mux,
        task: TaskKey,
        direction: Direction,
        port: u32,
        file: Rc<OwnedFd>,
        terminal: bool,
    ) {
        let stream = mux.open(port);
        self.pumps.push(Pump {
            task,
            direction,
            stream,
            file,
            terminal,
            ended: false,
            dry: false,
            last_words: false,
        });
    }

    /// A stream of the multiplexer was ended by the host.
    pub fn on_event(&mut self, event: Event) {
        if let Event::Reset(stream) = event {
            // Dropping the file gives the process EPIPE or end of file, as a closed pipe would.
            self.pumps.retain(|p| p.stream != stream);
        }
    }

    /// Moves what can be moved. `buffer` is scratch memory.
    pub fn turn(&mut self, mux: &mut Mux, buffer: &mut [u8]) {
        let count = self.pumps.len();
        for i in 0..count {
            let pump = &mut self.pumps[(self.first + i) % count];
            match pump.direction {
                Direction::In => pump.write_in(mux),
                Direction::Out => pump.read_out(mux, buffer),
            }
        }
        self.first = if count == 0 { 0 } else { (self.first + 1) % count };
        self.pumps.retain(|p| !p.ended);
    }

    /// What poll(2) should wait for: file and events. Files that nobody could act on are left out.
    pub fn interests<'a>(&'a self, mux: &'a Mux) -> impl Iterator<Item = (BorrowedFd<'a>, PollFlags)> {
        self.pumps.iter().filter_map(move |p| {
            let events = match p.direction {
                Direction::Out if mux.sendable(p.stream) > 0 => PollFlags::IN,
                Direction::In if !mux.pending(p.stream).is_empty() => PollFlags::OUT,
                // Only errors: the reader of the pipe has gone.
                Direction::In if !p.terminal => PollFlags::empty(),
                _ => return None,
            };
            Some((p.file.as_fd(), events))
        })
    }

    /// poll(2) reported an error for the `index`th of [`Streams::interests`]' pumps in order.
    pub fn broken(&mut self, mux: &mut Mux, file: i32) {
        use rustix::fd::AsRawFd;
        for pump in &mut self.pumps {
            if pump.direction == Direction::In && !pump.terminal && pump.file.as_raw_fd() == file {
                mux.reset(pump.stream);
                pump.ended = true;
            }
        }
        self.pumps.retain(|p| !p.ended);
    }

    /// Whether everything that `task` wrote so far is on its streams. With `last` nobody else can write any more, so what
    /// is left open then is finished.
    pub fn drained(&mut self, mux: &mut Mux, task: TaskKey, last: bool) -> bool {
        let mut all = true;
        for pump in self.pumps.iter_mut().filter(|p| p.task == task && p.direction == Direction::Out) {
            all &= pump.dry;
            if pump.dry && last {
                pump.finish(mux);
            }
        }
        self.pumps.retain(|p| !p.ended);
        all
    }

    /// `task` has ended: nobody reads its input any more (`last`), or nobody reads it from a terminal.
    pub fn close_input(&mut self, mux: &mut Mux, task: TaskKey, last: bool) {
        let gone = |p: &Pump| p.task == task && p.direction == Direction::In && (p.terminal || last);
        for pump in self.pumps.iter().filter(|p| gone(p)) {
            mux.reset(pump.stream);
        }
        self.pumps.retain(|p| !gone(p));
    }

    /// `task` has just ended, and may have written since its files were last read.
    pub fn task_ended(&mut self, task: TaskKey) {
        for pump in self.pumps.iter_mut().filter(|p| p.task == task) {
            (pump.dry, pump.last_words) = (false, true);
        }
    }

    /// Whether there is a pump of an ended process that might read on but did not reach the end yet.
    pub fn unsettled(&self, mux: &Mux) -> bool {
        let left = |p: &Pump| p.direction == Direction::Out && p.last_words && !p.dry;
        self.pumps.iter().any(|p| left(p) && mux.sendable(p.stream) > 0)
    }
}

impl Pump {
    fn finish(&mut self, mux: &mut Mux) {
        mux.finish(self.stream);
        self.ended = true;
    }

    fn write_in(&mut self, mux: &mut Mux) {
        loop {
            let pending = mux.pending(self.stream);
            if pending.is_empty() {
                break;
            }
            match rustix::io::write(&*self.file, pending) {
                Ok(n) => mux.consume(self.stream, n),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    mux.reset(self.stream);
                    self.ended = true;
                    return;
                }
            }
        }
        if mux.at_end(self.stream) {
            // For a pipe the file is closed with the pump; a terminal stays open, as it does with other runtimes.
            self.finish(mux);
        }
    }

    fn read_out(&mut self, mux: &mut Mux, buffer: &mut [u8]) {
        let count = buffer.len().min(mux.sendable(self.stream));
        if count == 0 {
            self.dry = false;
            return;
        }
        match rustix::io::read(&*self.file, &mut buffer[..count]) {
            // EIO: the last process has closed the terminal.
            Ok(0) | Err(Errno::IO) => self.finish(mux),
            Ok(n) => {
                self.dry = false;
                mux.send(self.stream, &buffer[..n]);
            }
            Err(Errno::AGAIN) => self.dry = true,
            Err(Errno::INTR) => {}
            Err(_) => self.finish(mux),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_protocol::mux::Side;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap()
    }

    fn carry(from: &mut Mux, to: &mut Mux) {
        while !from.output().is_empty() {
            let bytes = from.output().to_vec();
            from.sent(bytes.len());
            to.receive(&bytes).unwrap();
        }
    }

    #[test]
    fn output_stops_at_the_credit_and_ends_with_the_writer() {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let (reader, writer) = pipe();
        let mut streams = Streams::default();
        streams.add(&mut guest, 1, Direction::Out, 9, Rc::new(reader), false);
        let mut buffer = vec![0; 32 << 10];
        let mut written = 0;
        for _ in 0..50 {
            written += rustix::io::write(&writer, &[7; 10_000]).unwrap_or(0);
            streams.turn(&mut guest, &mut buffer);
            carry(&mut guest, &mut host);
        }
        let Some(Event::Opened { stream, port: 9 }) = host.next_event() else { panic!() };
        assert!(written > 128 << 10 && streams.interests(&guest).count() == 0);
        drop(writer);
        let mut got = 0;
        while !host.at_end(stream) {
            let n = host.pending(stream).len();
            got += n;
            host.consume(stream, n);
            carry(&mut host, &mut guest);
            streams.turn(&mut guest, &mut buffer);
            carry(&mut guest, &mut host);
        }
        assert_eq!(got, written);
        assert!(streams.pumps.is_empty());
    }

    #[test]
    fn input_arrives_and_its_end_closes_the_pipe() {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let (reader, writer) = pipe();
        let mut streams = Streams::default();
        streams.add(&mut guest, 1, Direction::In, 9, Rc::new(writer), false);
        carry(&mut guest, &mut host);
        let Some(Event::Opened { stream, .. }) = host.next_event() else { panic!() };
        host.send(stream, b"hello");
        host.finish(stream);
        carry(&mut host, &mut guest);
        streams.turn(&mut guest, &mut [0; 64]);
        let mut buffer = [0; 64];
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(5));
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(0));
        carry(&mut guest, &mut host);
        assert!(!host.is_open(stream));
    }

    #[test]
    fn a_reader_that_went_away_resets_the_input() {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let (reader, writer) = pipe();
        let mut streams = Streams::default();
        streams.add(&mut guest, 1, Direction::In, 9, Rc::new(writer), false);
        carry(&mut guest, &mut host);
        let Some(Event::Opened { stream, .. }) = host.next_event() else { panic!() };
        host.send(stream, b"x");
        drop(reader);
        carry(&mut host, &mut guest);
        streams.turn(&mut guest, &mut [0; 64]);
        carry(&mut guest, &mut host);
        assert_eq!(host.next_event(), Some(Event::Reset(stream)));
    }

    #[test]
    fn a_dry_pipe_is_drained_though_a_child_keeps_it() {
        let mut guest = Mux::new(Side::Guest);
        let (reader, writer) = pipe();
        let mut streams = Streams::default();
        streams.add(&mut guest, 1, Direction::Out, 9, Rc::new(reader), false);
        rustix::io::write(&writer, b"last words").unwrap();
        assert!(!streams.drained(&mut guest, 1, false));
        streams.turn(&mut guest, &mut [0; 64]);
        assert!(!streams.drained(&mut guest, 1, false));
        streams.turn(&mut guest, &mut [0; 64]);
        assert!(streams.drained(&mut guest, 1, false));
        assert_eq!(streams.pumps.len(), 1);
        assert!(streams.drained(&mut guest, 1, true));
        assert!(streams.pumps.is_empty());
    }
}
