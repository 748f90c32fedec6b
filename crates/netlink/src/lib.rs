//! Rtnetlink in as little code as both its users need: the host, which reads a network namespace and redirects its packets, and the
//! guest's agent, which is measured in kilobytes and sets the same things up in the machine.
//!
//! ```text
//!   Message::new(kind, flags).body(..).attribute(..)  ─► Socket::request ─► the kernel's acknowledgement
//!                                                     ─► Socket::dump ─► (kind, body, attributes(..)) for each object
//! ```
//!
//! What a message means is its user's business: no structure of the kernel is known here but the two headers. All numbers are in the byte
//! order of the machine, as in netlink(7).

mod attributes;
mod message;
mod socket;

pub use attributes::{Attributes, attributes};
pub use message::{ACK, APPEND, CREATE, DUMP, EXCLUSIVE, Message, REPLACE};
pub use socket::{Objects, Socket};

/// Bytes of a message's header (`struct nlmsghdr` of Linux `include/uapi/linux/netlink.h`).
pub const HEADER: usize = 16;

/// Messages and attributes begin at multiples of this (`NLMSG_ALIGNTO`, `NLA_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// `length` up to the next boundary.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}
