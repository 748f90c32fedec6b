//! One container in one virtual machine: what is to be done (plan), doing it on the host (host, keeper), and knowing
//! how it stands (state).
//!
//! ```text
//!   bundle::load ─► plan::plan(bundle, configuration, facts, mini-OS) ─► lifecycle::create ─► keeper: host steps, machine, guest set-up
//!                                                                        lifecycle::{start, kill, delete}, exec, client ─► keeper
//! ```

pub mod bundle;
pub mod client;
pub mod configuration;
pub mod exec;
pub mod history;
pub mod host;
pub mod keeper;
pub mod lifecycle;
pub mod mini_os;
pub mod plan;
pub mod relay;
pub mod run;
pub mod signals;
pub mod state;
pub mod terminal;

/// What the guest says about a container, as the doors show it.
pub use guest_protocol::message as guest;

/// Random bytes of the kernel.
pub(crate) fn entropy<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // Only a kernel without the system call: the guest's own sources must do.
            Err(_) => break,
        }
    }
    bytes
}
