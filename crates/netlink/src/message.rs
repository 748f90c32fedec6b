//! Writes messages.

use super::{HEADER, aligned};

/// NLM_F_REQUEST
const REQUEST: u16 = 0x1;
/// The kernel says how it went (NLM_F_ACK). [`crate::Socket::request`] sets it.
pub const ACK: u16 = 0x4;
/// All objects of a kind (NLM_F_DUMP). [`crate::Socket::dump`] sets it.
pub const DUMP: u16 = 0x300;
/// Take the place of an object that exists (NLM_F_REPLACE).
pub const REPLACE: u16 = 0x100;
/// Fail if there is one (NLM_F_EXCL).
pub const EXCLUSIVE: u16 = 0x200;
/// Make it if there is none (NLM_F_CREATE).
pub const CREATE: u16 = 0x400;
/// Behind those that exist (NLM_F_APPEND).
pub const APPEND: u16 = 0x800;

/// A request to the kernel, while it is written.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of `kind` (RTM_*) with the header of its family, for example a `struct ifinfomsg`.
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        let mut message = Message { bytes };
        message.append(body);
        message
    }

    /// Adds an attribute. A value has at most 65531 bytes: no attribute of rtnetlink comes near to it, and the rest is cut.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.bytes.len();
        self.append(&[0; 4]);
        self.append(value);
        self.close(start, kind, 4 + value.len());
        self
    }

    /// Adds an attribute of which other attributes are the value.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.append(&[0; 4]);
        let mut filled = fill(self);
        let length = filled.bytes.len() - start;
        filled.close(start, kind, length);
        filled
    }

    /// Adds an attribute if there is a value for it.
    pub fn optional(self, kind: u16, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.attribute(kind, value.as_ref()),
            None => self,
        }
    }

    /// Adds a NUL-terminated text.
    pub fn text(self, kind: u16, text: &str) -> Self {
        let value: Vec<u8> = text.bytes().filter(|byte| *byte != 0).chain([0]).collect();
        self.attribute(kind, &value)
    }

    /// What is behind the header, as the kernel will read it.
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// The whole message with its number and more flags.
    pub(super) fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    fn close(&mut self, start: usize, kind: u16, length: usize) {
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn bytes_are_those_of_netlink_7() {
        let message = Message::new(16, CREATE, &[0; 16]).text(3, "eth0").nested(18, |m| m.attribute(1, &[7]));
        let bytes = message.finish(9, ACK);
        let head = [56, 0, 0, 0, 16, 0, 0x05, 0x04, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes[..16], head);
        assert_eq!(bytes[32..44], [9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]);
        assert_eq!(bytes[44..], [12, 0, 18, 0, 5, 0, 1, 0, 7, 0, 0, 0][..]);
    }

    #[test]
    fn a_text_ends_at_its_end() {
        let message = Message::new(1, 0, &[]).text(1, "a\0b");
        assert_eq!(message.bytes[HEADER + 4..], *b"ab\0\0");
    }
}
