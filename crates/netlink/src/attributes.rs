//! Reads attributes.

use super::aligned;

/// NLA_F_NESTED and NLA_F_NET_BYTEORDER, which are no part of an attribute's kind.
const FLAGS: u16 = 0xc000;

/// Attributes one after another: kind and value.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

/// The attributes in `bytes`, up to the first that is malformed.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & !FLAGS;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a kind.
    pub fn value(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The value of an attribute that is a number of four bytes.
    pub fn number(&self, kind: u16) -> Option<u32> {
        self.value(kind)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// The value of an attribute that is a text, without its NUL; what is no UTF-8 in it is replaced.
    pub fn text(&self, kind: u16) -> Option<String> {
        let value = self.value(kind)?;
        let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HEADER, Message};
    use proptest::prelude::*;

    #[test]
    fn what_was_written_is_read() {
        let bytes = Message::new(1, 0, &[])
            .text(3, "eth0")
            .attribute(4, &1500_u32.to_ne_bytes())
            .nested(0x8005, |m| m.attribute(1, &[1, 2, 3]))
            .finish(1, 0);
        let found = attributes(&bytes[HEADER..]);
        assert_eq!(found.text(3).as_deref(), Some("eth0"));
        assert_eq!(found.number(4), Some(1500));
        assert_eq!(attributes(found.value(5).unwrap()).value(1), Some([1, 2, 3].as_slice()));
        assert_eq!((found.number(9), found.clone().count()), (None, 3));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(attributes(&bytes).map(|(_, value)| value.len() + 4).sum::<usize>() <= bytes.len());
        }
    }
}
