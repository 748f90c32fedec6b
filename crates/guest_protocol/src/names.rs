//! Questions to a name server that is reached from the container's network namespace on the host alone.
//!
//! Docker's name server answers at [`SERVER`], by rules inside that namespace, which the guest does not have. So the agent answers there: it
//! opens a stream to the host for each question or connection, and the keeper asks from inside the namespace.
//!
//! | port | guest to host | host to guest |
//! |---|---|---|
//! | [`DATAGRAM_PORT`] | one question behind its length | its answer behind its length |
//! | [`STREAM_PORT`] | what the connection carries: the same, any number of times | the same |
//!
//! The length is two bytes, big endian, as in DNS over TCP (RFC 1035, 4.2.2).

use std::net::Ipv4Addr;

/// Where Docker's name server is, in every container that has one.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Where name servers listen.
pub const PORT: u16 = 53;

/// Stream port for a question that came in a datagram.
pub const DATAGRAM_PORT: u32 = 2;

/// Stream port for a connection.
pub const STREAM_PORT: u32 = 3;

/// Most questions and connections at a time.
pub const MOST: usize = 128;

/// Longest question in a datagram, in bytes.
pub const MAX_QUESTION: usize = 4096;

/// Bytes of the length.
const HEAD: usize = 2;

/// A message behind its length; `None` when it is longer than 64 KiB - 1.
pub fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    Some([&length.to_be_bytes(), message].concat())
}

/// The message that `bytes` begin with, if it is there as a whole.
pub fn message(bytes: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes(*bytes.first_chunk()?);
    bytes.get(HEAD..HEAD + usize::from(length))
}

/// Whether the text of a `resolv.conf` names [`SERVER`].
pub fn is_named_in(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver") && words.next().is_some_and(|word| word.parse() == Ok(SERVER))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_message_comes_out_once_it_is_whole(text in prop::collection::vec(any::<u8>(), 0..5000), cut in 0usize..5000) {
            let bytes = framed(&text).unwrap();
            prop_assert_eq!(message(&bytes), Some(text.as_slice()));
            let part = &bytes[..cut.min(bytes.len() - 1)];
            prop_assert_eq!(message(part), None);
        }
    }

    #[test]
    fn what_is_too_long_has_no_length() {
        assert!(framed(&[0; 65535]).is_some() && framed(&[0; 65536]).is_none());
    }

    #[test]
    fn dockers_name_server_is_found_in_its_file() {
        assert!(is_named_in("search a.b\nnameserver 127.0.0.11\noptions ndots:0\n"));
        assert!(is_named_in("nameserver\t192.0.2.1\n  nameserver 127.0.0.11 \n"));
        for text in
            ["", "# nameserver 127.0.0.11", "nameserver 127.0.0.110", "nameserver", "search 127.0.0.11"]
        {
            assert!(!is_named_in(text), "{text}");
        }
    }
}
