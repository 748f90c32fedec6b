//! Control messages on a byte stream: a 4-byte little-endian length, then that many bytes of postcard.
//!
//! ```text
//!   bytes ──► Decoder::push ──► Decoder::next::<T>() ──► Ok(Some(T)) | Ok(None): more bytes needed | Err: close it
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest frame the guest accepts from the host, in bytes: a set-up with a very large environment fits.
pub const MAX_TO_GUEST: usize = 8 << 20;

/// Longest frame the host accepts from the guest, in bytes.
pub const MAX_TO_HOST: usize = 256 << 10;

/// A stream that is no sequence of frames. It cannot be used any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// a frame of {length} bytes exceeds the limit of {limit}
    #[error("a frame of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// What the frame's head (or the encoder's input) says.
        length: usize,
        /// What this side accepts.
        limit: usize,
    },
    /// a frame does not hold a message of this protocol: {0}
    #[error("a frame does not hold a message of this protocol: {0}")]
    Malformed(String),
}

/// Encodes one message as a frame.
///
/// # Errors
/// [`FrameError::TooLong`] when the message has more than `limit` bytes.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_stdvec(message).map_err(|e| FrameError::Malformed(e.to_string()))?;
    if body.len() > limit {
        return Err(FrameError::TooLong { length: body.len(), limit });
    }
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Collects bytes and gives messages. Holds at most one frame and what was pushed with its end.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were given out already.
    taken: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder that refuses frames longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Decoder { buffer: Vec::new(), taken: 0, limit }
    }

    /// Adds bytes from the stream. Take all messages with [`Decoder::next`] after each call.
    pub fn push(&mut self, bytes: &[u8]) {
        // Once per push, not per message: many small frames must not cost a move of the rest each.
        self.buffer.drain(..std::mem::take(&mut self.taken));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` while bytes are missing.
    ///
    /// # Errors
    /// When the stream is broken; the caller must close it.
    #[expect(
        clippy::should_implement_trait,
        reason = "what comes next has a type that only the caller knows"
    )]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.buffer[self.taken..];
        let Some(head) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        let Some(body) = rest.get(4..4 + length) else { return Ok(None) };
        let message = postcard::from_bytes(body).map_err(|e| FrameError::Malformed(e.to_string()))?;
        self.taken += 4 + length;
        if self.taken == self.buffer.len() {
            self.taken = 0;
            self.buffer.clear();
            // One large set-up message must not stay in a long-lived process's memory.
            self.buffer.shrink_to(4096);
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_survive_any_cut(messages in prop::collection::vec(".{0,200}", 0..20), cut in 1usize..64) {
            let bytes: Vec<u8> = messages.iter().flat_map(|m| encode(m, 10_000).unwrap()).collect();
            let mut decoder = Decoder::new(10_000);
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(m) = decoder.next::<String>().unwrap() {
                    got.push(m);
                }
            }
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::new(1000);
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<crate::message::FromAgent>() {}
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_from_its_head() {
        let mut decoder = Decoder::new(100);
        decoder.push(&101u32.to_le_bytes());
        assert_eq!(decoder.next::<String>(), Err(FrameError::TooLong { length: 101, limit: 100 }));
        assert!(matches!(encode(&vec![0u8; 200], 100), Err(FrameError::TooLong { .. })));
    }
}
