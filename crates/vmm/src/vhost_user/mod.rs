//! The fs device for another VMM, by vhost-user: `clear-vmm serve fs`.
//!
//! ```text
//!   QEMU ── socket: messages, descriptors ─► session.rs ─► memory.rs   its guest's memory, mapped here
//!     │                                          └───────► virtio::fs  rings, workers, share: as in a machine of ours
//!     └─── KVM: doorbell (kick), interrupt (call) as eventfds ──► event_loop
//! ```
//!
//! One client, which is asked for its VM first ([`peer`]): by emulation this must not be done. Then the process enters its jail, and only
//! after that reads what the client says.

mod memory;
pub mod peer;
mod session;
#[cfg(test)]
mod tests;

use crate::event_loop::{EventLoop, LoopError};
use crate::jail::JailError;
use crate::vcpu::exit::ExitReason;
use crate::virtio::fs::Fs;
use session::Session;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// Serves `device` to the client at the other end of `socket` until that hangs up, or one of `signals` comes (see
/// [`crate::event_loop::signals::block`]); returns its number. `ready` is called before anything of the client's is read.
///
/// # Errors
/// When waiting fails, or the client said something that cannot be; in words.
pub fn serve(
    device: Fs,
    socket: UnixStream,
    signals: OwnedFd,
    ready: impl FnOnce() -> Result<(), JailError>,
) -> Result<Option<i32>, ServeError> {
    let mut events = EventLoop::new()?;
    events.end_on_signals(signals)?;
    let session = Arc::new(Mutex::new(Session::new(device, socket)?));
    events.add(session.clone()).changed();
    ready()?;
    let ended = || crate::bus::lock(&session).is_over().then_some(ExitReason::PowerOff);
    let reason = events.run(&mut (), ended)?;
    if let Some(reason) = crate::bus::lock(&session).failure() {
        return Err(ServeError::Client(reason));
    }
    Ok(match reason {
        ExitReason::Signal(number) => Some(number),
        _ => None,
    })
}

/// A device that cannot be served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Waiting failed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// No connection.
    #[error("setting up the connection: {0}")]
    Socket(#[from] std::io::Error),
    /// The jail cannot be closed.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// What the client said.
    #[error("serving the client: {0}")]
    Client(String),
}
