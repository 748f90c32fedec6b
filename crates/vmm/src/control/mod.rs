//! Control of a running machine by a UNIX socket: one JSON object a line asks, one answers, in order.
//!
//! ```text
//!   client.rs ── line [+ descriptors] ─► connection.rs: bytes to lines ─► protocol.rs: lines to requests
//!                                               │ bounded, never waits             └─► Commands (the machine)
//!   client ◄── line ────────────────────────────┴── server.rs: who is connected, on the event loop's thread ◄── answer
//! ```
//!
//! Who may connect may do all that is here: the socket's path has mode 0600, or the socket is donated. A client may still be slow or
//! wrong: lines, answers, descriptors and the number of clients are bounded, and nobody is waited for. Files for new devices come
//! opened, as descriptors, because a jailed machine can open none. The command set is described in `docs/control.md`.

pub mod answers;
pub mod client;
pub mod connection;
pub mod protocol;
pub mod server;
pub mod socket;

use crate::event_loop::EventLoop;
use crate::vcpu::exit::ExitReason;
use protocol::{Outcome, Request};
use std::os::fd::OwnedFd;

/// Does what is asked for.
pub trait Commands {
    /// Does `request`; `files` came with it, as many as [`Request::files`]. A reason ends the machine, after the answer was given.
    fn run(
        &mut self,
        events: &mut EventLoop,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> (Outcome, Option<ExitReason>);
}
