//! What a hostile guest can put on the agent channel, and on the control stream in it: no panic, no memory without bound.
//!
//! The host's end does what the keeper does: it resets streams to ports that do not exist, reads the control stream, answers
//! on the others, and writes to the channel only as fast as the guest reads it.
#![no_main]

use guest_protocol::frame::{Decoder, MAX_TO_HOST};
use guest_protocol::message::FromAgent;
use guest_protocol::mux::{Event, Mux, OUTPUT_LIMIT, Side, StreamId, WINDOW};
use guest_protocol::{CONTROL_PORT, FIRST_STDIO_PORT};
use libfuzzer_sys::fuzz_target;

/// Room for frames that need no credit (reset, finish, credit): what may be there before the mux says that it is congested, and the
/// answers to one more piece.
const CONTROL_FRAMES: usize = 128 << 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let (cut, drain) = (usize::from(how >> 4) * 31 + 1, usize::from(how & 15) * 8);
    let mut host = Host { mux: Mux::new(Side::Host), control: None, decoder: Decoder::new(MAX_TO_HOST) };
    for piece in bytes.chunks(cut) {
        if host.mux.is_congested() {
            // As the keeper: a guest that does not read is not heard.
            return;
        }
        if host.mux.receive(piece).is_err() || host.act().is_none() {
            return;
        }
        let waiting = host.mux.output().len();
        assert!(
            waiting <= OUTPUT_LIMIT + CONTROL_FRAMES,
            "{waiting} bytes wait for a guest that does not read"
        );
        host.mux.sent(drain);
    }
});

struct Host {
    mux: Mux,
    control: Option<StreamId>,
    decoder: Decoder,
}

impl Host {
    /// Acts on what has come; `None` when the guest broke a rule.
    fn act(&mut self) -> Option<()> {
        while let Some(event) = self.mux.next_event() {
            match event {
                Event::Opened { stream, port: CONTROL_PORT } if self.control.is_none() => {
                    self.control = Some(stream)
                }
                Event::Opened { stream, port } if port < FIRST_STDIO_PORT => self.mux.reset(stream),
                Event::Opened { stream, .. } => self.mux.finish(stream),
                Event::Readable(stream) if Some(stream) == self.control => self.read_control(stream)?,
                Event::Readable(stream) => self.echo(stream),
                Event::Finished(stream) => self.mux.finish(stream),
                Event::Reset(_) | Event::Writable(_) => {}
            }
        }
        Some(())
    }

    fn read_control(&mut self, stream: StreamId) -> Option<()> {
        loop {
            let bytes = self.mux.pending(stream);
            assert!(bytes.len() <= WINDOW as usize);
            if bytes.is_empty() {
                return Some(());
            }
            let count = bytes.len();
            self.decoder.push(bytes);
            self.mux.consume(stream, count);
            while self.decoder.next::<FromAgent>().ok()?.is_some() {}
        }
    }

    /// Sends half of what is there back and forgets that half.
    fn echo(&mut self, stream: StreamId) {
        let bytes = self.mux.pending(stream).to_vec();
        let half = &bytes[..bytes.len().div_ceil(2)];
        self.mux.send(stream, half);
        self.mux.consume(stream, half.len());
    }
}
