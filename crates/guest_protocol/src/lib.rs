//! What host and guest say to each other.
//!
//! ```text
//!   keeper (host)                                            clear-agent (guest, PID 1)
//!   Mux ◄── bytes of one channel (virtio-serial, vsock) ► Mux [mux]: many streams over one channel
//!     control stream: frames ◄────────────────────► frames   [frame]: length-prefixed, bounded
//!         Request ──►            ◄── Hello, Reply, Event     [message], [network]
//!     stdio streams: raw bytes, half-close = end of file
//!     questions to the engine's name server                  [names]
//! ```
//!
//! Everything here is without I/O: callers move the bytes.
//!
//! The agent trusts the host. The host trusts no byte of the guest: every length is bounded here, and no
//! decoder panics on any input.

pub mod frame;
pub mod message;
pub mod mux;
pub mod names;
pub mod network;

/// Version of everything in this crate. The agent states it in its [`message::Hello`]; the host refuses any other.
pub const VERSION: u32 = 4;

/// Name of the virtio-serial port that carries the [`mux`].
pub const CHANNEL_NAME: &str = "clear.agent";

/// vsock port of the host (CID 2) that carries the [`mux`] where there is vsock instead of a virtio-serial port.
pub const VSOCK_PORT: u32 = 1024;

/// Kernel parameter that tells the agent to call the host by vsock, with the port: `clear.vsock=1024`.
pub const VSOCK_PARAMETER: &str = "clear.vsock";

/// Stream port of the control stream. The agent opens it first, once it is ready.
pub const CONTROL_PORT: u32 = 1;

/// First port that the host gives to a stdio stream.
pub const FIRST_STDIO_PORT: u32 = 1024;
