//! Many byte streams over one byte channel, with credit so that no stream can fill the other side's memory.
//!
//! ```text
//!   channel bytes ──► receive() ──► next_event(): Opened, Readable, Finished, Reset, Writable
//!   application   ◄── pending(s) / consume(s, n)            (consuming gives the peer new credit)
//!   application   ──► open(port), send(s, bytes), finish(s), reset(s)
//!   channel bytes ◄── output() / sent(n)
//! ```
//!
//! A frame is an 8-byte head and a payload:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | kind: 1 open, 2 data, 3 credit, 4 finish, 5 reset |
//! | 1 | zero |
//! | 2..4 | payload length, little endian, at most [`MAX_PAYLOAD`] |
//! | 4..8 | stream id, little endian: odd when the guest opened it, even when the host did |
//!
//! `open` carries the port (u32), `credit` the bytes granted (u32). Each direction of a stream starts with
//! [`WINDOW`] bytes of credit. A stream ends when both sides finished, or one reset it; frames for a stream that has
//! ended are ignored, because the peer may have sent them before it knew.
//!
//! The peer may be hostile: a frame that breaks a rule is a [`MuxError`], after which the channel must be closed, and memory
//! is bounded by [`MAX_STREAMS`] x [`WINDOW`] for what came, and for what goes by [`OUTPUT_LIMIT`] of data plus the answers (credit,
//! reset) to what was received while [`Mux::is_congested`] was false. The host must not receive while it is true, so a
//! guest that sends without reading stops itself; the guest receives always, so the two never wait for each other.

use std::collections::{BTreeMap, VecDeque};

/// Credit of a new stream in each direction, and the most bytes of it ever held, in bytes.
pub const WINDOW: u32 = 128 << 10;

/// Longest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = 32 << 10;

/// Most streams that the peer may have open at a time.
pub const MAX_STREAMS: usize = 4096;

/// Data waiting for the channel is kept below this, in bytes; `send` takes no more.
pub const OUTPUT_LIMIT: usize = 256 << 10;

/// Room for frames that need no credit, beyond [`OUTPUT_LIMIT`], in bytes.
const CONTROL_ROOM: usize = 64 << 10;

const HEAD: usize = 8;

/// Which end of the channel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The keeper.
    Host,
    /// The agent.
    Guest,
}

/// A stream, unique for the life of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// What happened on the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream to `port`.
    Opened {
        /// The new stream.
        stream: StreamId,
        /// What the peer wants to reach.
        port: u32,
    },
    /// There are bytes for [`Mux::pending`].
    Readable(StreamId),
    /// The peer sends no more; what it sent is still in [`Mux::pending`].
    Finished(StreamId),
    /// The peer ended the stream; it is gone.
    Reset(StreamId),
    /// The peer gave credit: [`Mux::send`] may take more.
    Writable(StreamId),
}

/// The peer broke a rule. The channel cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// unknown frame kind {0}
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// a frame of kind {kind} with {length} bytes
    #[error("a frame of kind {kind} with {length} bytes")]
    Length {
        /// The frame's kind.
        kind: u8,
        /// Its payload length.
        length: usize,
    },
    /// a frame for stream {0}, which was never opened
    #[error("a frame for stream {0}, which was never opened")]
    UnknownStream(u32),
    /// stream {0} was opened twice or by the wrong side
    #[error("stream {0} was opened twice or by the wrong side")]
    BadOpen(u32),
    /// more than 4096 streams
    #[error("more than {MAX_STREAMS} streams")]
    TooManyStreams,
    /// stream {0} sent more than its credit, or after it had finished
    #[error("stream {0} sent more than its credit, or after it had finished")]
    Overrun(u32),
    /// stream {0} was given more credit than a window
    #[error("stream {0} was given more credit than a window")]
    Credit(u32),
}

#[derive(Debug, Default)]
struct Stream {
    inbound: VecDeque<u8>,
    /// Bytes the peer may still send.
    receive_credit: u32,
    /// Consumed, but not yet given back as credit.
    ungranted: u32,
    /// Bytes we may still send.
    send_credit: u32,
    peer_finished: bool,
    we_finished: bool,
}

/// One end of the channel. See the [module](self) for its use.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    streams: BTreeMap<u32, Stream>,
    next_own: u32,
    /// Highest id that the peer has opened.
    last_peer: u32,
    input: Vec<u8>,
    output: VecDeque<u8>,
    events: VecDeque<Event>,
}

impl Mux {
    /// A channel without streams.
    pub fn new(side: Side) -> Self {
        Mux {
            side,
            streams: BTreeMap::new(),
            next_own: if side == Side::Guest { 1 } else { 2 },
            last_peer: 0,
            input: Vec::new(),
            output: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes bytes that came over the channel.
    ///
    /// # Errors
    /// When the peer breaks a rule; the channel must then be closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), MuxError> {
        if self.input.is_empty() {
            let used = self.parse(bytes)?;
            self.input.extend_from_slice(&bytes[used..]);
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let used = self.parse(&input)?;
            input.drain(..used);
            self.input = input;
        }
        Ok(())
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<usize, MuxError> {
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk::<HEAD>() {
            let kind = head[0];
            let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let stream = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            let allowed = match kind {
                1 | 3 => length == 4,
                2 => (1..=MAX_PAYLOAD).contains(&length),
                4 | 5 => length == 0,
                _ => return Err(MuxError::Kind(kind)),
            };
            if !allowed || head[1] != 0 {
                return Err(MuxError::Length { kind, length });
            }
            let Some(payload) = bytes.get(at + HEAD..at + HEAD + length) else { break };
            self.frame(kind, stream, payload)?;
            at += HEAD + length;
        }
        Ok(at)
    }

    fn frame(&mut self, kind: u8, id: u32, payload: &[u8]) -> Result<(), MuxError> {
        let number = payload.first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b));
        if kind == 1 {
            return self.peer_opens(id, number);
        }
        let ours = id % 2 == self.next_own % 2;
        let known = if ours { id < self.next_own } else { id != 0 && id <= self.last_peer };
        if !known {
            return Err(MuxError::UnknownStream(id));
        }
        // Absent but once known: it has ended, and the peer may not know yet.
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        match kind {
            2 => {
                let length = payload.len() as u32;
                if stream.peer_finished || length > stream.receive_credit {
                    return Err(MuxError::Overrun(id));
                }
                stream.receive_credit -= length;
                if stream.inbound.is_empty() {
                    self.events.push_back(Event::Readable(StreamId(id)));
                }
                stream.inbound.extend(payload);
            }
            3 => {
                let total = stream.send_credit.checked_add(number).filter(|t| *t <= WINDOW && number > 0);
                let was = stream.send_credit;
                stream.send_credit = total.ok_or(MuxError::Credit(id))?;
                if was == 0 && !stream.we_finished {
                    self.events.push_back(Event::Writable(StreamId(id)));
                }
            }
            4 => {
                if stream.peer_finished {
                    return Err(MuxError::Overrun(id));
                }
                stream.peer_finished = true;
                self.events.push_back(Event::Finished(StreamId(id)));
                self.forget_if_ended(StreamId(id));
            }
            _ => {
                self.streams.remove(&id);
                self.events.push_back(Event::Reset(StreamId(id)));
            }
        }
        Ok(())
    }

    fn peer_opens(&mut self, id: u32, port: u32) -> Result<(), MuxError> {
        if id % 2 == self.next_own % 2 || id <= self.last_peer {
            return Err(MuxError::BadOpen(id));
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(MuxError::TooManyStreams);
        }
        self.last_peer = id;
        self.streams.insert(id, Stream::fresh());
        self.events.push_back(Event::Opened { stream: StreamId(id), port });
        Ok(())
    }

    /// The next thing that happened.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Opens a stream to `port` of the peer. Bytes may be sent at once.
    pub fn open(&mut self, port: u32) -> StreamId {
        let id = self.next_own;
        self.next_own += 2;
        self.streams.insert(id, Stream::fresh());
        self.put(1, id, &port.to_le_bytes());
        StreamId(id)
    }

    /// Bytes of `stream` that came and were not consumed: a first part, not always all of them.
    pub fn pending(&self, stream: StreamId) -> &[u8] {
        self.streams.get(&stream.0).map_or(&[], |s| {
            let (head, tail) = s.inbound.as_slices();
            if head.is_empty() { tail } else { head }
        })
    }

    /// Removes `count` bytes from what is pending, and gives the peer credit for them in time.
    pub fn consume(&mut self, stream: StreamId, count: usize) {
        let Some(s) = self.streams.get_mut(&stream.0) else { return };
        let count = count.min(s.inbound.len());
        s.inbound.drain(..count);
        s.ungranted += count as u32;
        let grant = s.ungranted;
        if grant >= WINDOW / 4 && !s.peer_finished {
            s.ungranted = 0;
            s.receive_credit += grant;
            self.put(3, stream.0, &grant.to_le_bytes());
        }
        self.forget_if_ended(stream);
    }

    /// How many bytes [`Mux::send`] would take now.
    pub fn sendable(&self, stream: StreamId) -> usize {
        match self.streams.get(&stream.0) {
            Some(s) if !s.we_finished => {
                (s.send_credit as usize).min(OUTPUT_LIMIT.saturating_sub(self.output.len()))
            }
            _ => 0,
        }
    }

    /// Queues bytes for the peer; returns how many were taken.
    pub fn send(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.sendable(stream));
        for piece in bytes[..taken].chunks(MAX_PAYLOAD) {
            self.put(2, stream.0, piece);
        }
        if let Some(s) = self.streams.get_mut(&stream.0) {
            s.send_credit -= taken as u32;
        }
        taken
    }

    /// Says that this side sends no more on `stream`.
    pub fn finish(&mut self, stream: StreamId) {
        if let Some(s) = self.streams.get_mut(&stream.0).filter(|s| !s.we_finished) {
            s.we_finished = true;
            self.put(4, stream.0, &[]);
            self.forget_if_ended(stream);
        }
    }

    /// Ends `stream` in both directions; bytes not consumed are lost.
    pub fn reset(&mut self, stream: StreamId) {
        if self.streams.remove(&stream.0).is_some() {
            self.put(5, stream.0, &[]);
        }
    }

    /// Whether `stream` still exists.
    pub fn is_open(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream.0)
    }

    /// Whether the peer has finished and everything was consumed (also true for a stream that has ended).
    pub fn at_end(&self, stream: StreamId) -> bool {
        self.streams.get(&stream.0).is_none_or(|s| s.peer_finished && s.inbound.is_empty())
    }

    /// Bytes to write to the channel: a first part, not always all of them.
    pub fn output(&self) -> &[u8] {
        let (head, tail) = self.output.as_slices();
        if head.is_empty() { tail } else { head }
    }

    /// Whether so much waits for the channel that nothing more should be received until some of it was sent.
    pub fn is_congested(&self) -> bool {
        self.output.len() > OUTPUT_LIMIT + CONTROL_ROOM
    }

    /// Says that the first `count` bytes of [`Mux::output`] were written.
    pub fn sent(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
    }

    fn put(&mut self, kind: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u16).to_le_bytes();
        let id = stream.to_le_bytes();
        self.output.extend([kind, 0, length[0], length[1], id[0], id[1], id[2], id[3]]);
        self.output.extend(payload);
    }

    fn forget_if_ended(&mut self, stream: StreamId) {
        let ended = |s: &Stream| s.we_finished && s.peer_finished && s.inbound.is_empty();
        if self.streams.get(&stream.0).is_some_and(ended) {
            self.streams.remove(&stream.0);
        }
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }
}

impl Stream {
    fn fresh() -> Self {
        Stream { receive_credit: WINDOW, send_credit: WINDOW, ..Stream::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn carry(from: &mut Mux, to: &mut Mux, most: usize) {
        let count = from.output().len().min(most);
        let bytes = from.output()[..count].to_vec();
        from.sent(count);
        to.receive(&bytes).unwrap();
    }

    /// Sends each text on a stream of its own through channels cut at any place; returns what arrived.
    fn transfer(texts: &[Vec<u8>], cut: usize, bite: usize) -> Vec<Vec<u8>> {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let streams: Vec<_> = (0..texts.len()).map(|i| guest.open(i as u32)).collect();
        let mut sent = vec![0; texts.len()];
        let mut got: BTreeMap<u32, (u32, Vec<u8>)> = BTreeMap::new();
        let mut open = texts.len();
        while open > 0 {
            for (i, s) in streams.iter().enumerate() {
                sent[i] += guest.send(*s, &texts[i][sent[i]..]);
                if sent[i] == texts[i].len() {
                    guest.finish(*s);
                }
            }
            assert!(guest.output.len() <= OUTPUT_LIMIT + texts.len() * 64 + OUTPUT_LIMIT / 1024);
            carry(&mut guest, &mut host, cut);
            while let Some(event) = host.next_event() {
                if let Event::Opened { stream, port } = event {
                    got.insert(stream.0, (port, Vec::new()));
                }
            }
            for (id, (_, data)) in &mut got {
                let stream = StreamId(*id);
                let part = host.pending(stream);
                let part = &part[..part.len().min(bite)];
                data.extend_from_slice(part);
                let count = part.len();
                host.consume(stream, count);
                if host.is_open(stream) && host.at_end(stream) {
                    host.finish(stream);
                    open -= 1;
                }
            }
            carry(&mut host, &mut guest, cut);
        }
        assert!(host.streams.is_empty());
        got.into_values().map(|(_, data)| data).collect()
    }

    #[test]
    fn a_stream_larger_than_every_window_arrives_whole() {
        let text: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert_eq!(transfer(std::slice::from_ref(&text), 5000, 4000), vec![text]);
    }

    #[test]
    fn a_reader_that_stops_does_not_fill_memory_nor_stop_others() {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let (stuck, alive) = (guest.open(7), guest.open(8));
        let mut taken = 0;
        for _ in 0..100 {
            taken += guest.send(stuck, &[0; 100_000]);
            while !guest.output().is_empty() {
                carry(&mut guest, &mut host, usize::MAX);
            }
        }
        assert_eq!(taken, WINDOW as usize);
        assert_eq!(guest.send(alive, b"hello"), 5);
        carry(&mut guest, &mut host, usize::MAX);
        assert_eq!(host.pending(alive), b"hello");
    }

    #[test]
    fn half_close_leaves_the_other_direction_open() {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let s = guest.open(1);
        guest.finish(s);
        carry(&mut guest, &mut host, usize::MAX);
        assert!(host.at_end(s));
        assert_eq!(host.send(s, b"late"), 4);
        host.finish(s);
        assert!(!host.is_open(s));
        carry(&mut host, &mut guest, usize::MAX);
        assert_eq!(guest.pending(s), b"late");
        guest.consume(s, 4);
        assert!(!guest.is_open(s));
    }

    #[test]
    fn late_frames_for_an_ended_stream_are_ignored_and_unknown_ones_refused() {
        let (mut guest, mut host) = (Mux::new(Side::Guest), Mux::new(Side::Host));
        let s = guest.open(1);
        carry(&mut guest, &mut host, usize::MAX);
        host.reset(s);
        guest.send(s, b"on its way");
        carry(&mut guest, &mut host, usize::MAX);
        carry(&mut host, &mut guest, usize::MAX);
        assert_eq!(guest.next_event(), Some(Event::Reset(s)));
        assert_eq!(host.receive(&[2, 0, 1, 0, 99, 0, 0, 0, 1]), Err(MuxError::UnknownStream(99)));
    }

    #[test]
    fn a_peer_that_sends_without_reading_is_noticed() {
        let mut host = Mux::new(Side::Host);
        let mut id = 1u32;
        while !host.is_congested() {
            let mut frame = vec![1, 0, 4, 0];
            frame.extend(id.to_le_bytes());
            frame.extend([7, 0, 0, 0]);
            host.receive(&frame).unwrap();
            host.reset(StreamId(id));
            id += 2;
        }
        assert!(host.output.len() <= OUTPUT_LIMIT + CONTROL_ROOM + HEAD);
        let count = host.output().len();
        host.sent(count);
        assert!(!host.is_congested());
    }

    #[test]
    fn rules_are_enforced() {
        let fresh = || {
            let mut host = Mux::new(Side::Host);
            host.receive(&[1, 0, 4, 0, 1, 0, 0, 0, 5, 0, 0, 0]).unwrap();
            host
        };
        assert_eq!(fresh().receive(&[9; 8]), Err(MuxError::Kind(9)));
        assert_eq!(fresh().receive(&[1, 0, 4, 0, 1, 0, 0, 0, 5, 0, 0, 0]), Err(MuxError::BadOpen(1)));
        assert_eq!(fresh().receive(&[1, 0, 4, 0, 2, 0, 0, 0, 5, 0, 0, 0]), Err(MuxError::BadOpen(2)));
        assert_eq!(fresh().receive(&[3, 0, 4, 0, 1, 0, 0, 0, 1, 0, 0, 0]), Err(MuxError::Credit(1)));
        assert_eq!(fresh().receive(&[2, 0, 0, 0, 1, 0, 0, 0]), Err(MuxError::Length { kind: 2, length: 0 }));
        let mut host = fresh();
        let mut flood = vec![2, 0, 0, 0x80, 1, 0, 0, 0];
        flood.extend([0; MAX_PAYLOAD]);
        for _ in 0..4 {
            host.receive(&flood).unwrap();
        }
        assert_eq!(host.receive(&flood), Err(MuxError::Overrun(1)));
    }

    proptest! {
        #[test]
        fn streams_arrive_whole_under_any_cut(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 1..6),
            cut in 1usize..3000, bite in 1usize..3000,
        ) {
            prop_assert_eq!(transfer(&texts, cut, bite), texts);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4000), cut in 1usize..100) {
            let mut host = Mux::new(Side::Host);
            for piece in bytes.chunks(cut) {
                if host.receive(piece).is_err() { break; }
            }
        }

        #[test]
        fn hostile_frames_never_panic_and_stay_bounded(
            frames in prop::collection::vec((1u8..6, 0u32..8, 0u32..300_000), 0..200),
        ) {
            let mut host = Mux::new(Side::Host);
            for (kind, id, number) in frames {
                let payload = match kind { 1 | 3 => number.to_le_bytes().to_vec(),
                    2 => vec![0; (number as usize % MAX_PAYLOAD) + 1], _ => Vec::new() };
                let mut frame = vec![kind, 0];
                frame.extend((payload.len() as u16).to_le_bytes());
                frame.extend(id.to_le_bytes());
                frame.extend(payload);
                if host.receive(&frame).is_err() { break; }
                while let Some(event) = host.next_event() {
                    if let Event::Readable(s) = event {
                        let n = host.pending(s).len();
                        host.consume(s, n / 2);
                    }
                }
            }
            prop_assert!(host.output.len() < 100_000);
        }
    }
}
