//! The machine itself: what PID 1 does before, beside and after containers.
//!
//! ```text
//!   boot ─► modules ─► channel        once, in this order
//!   network                           before a Setup, and when interfaces come or go
//!   shares  clock                     for a Setup
//!   files                             for all of them
//!   power                             at the end, whatever the reason
//! ```

pub mod boot;
pub mod channel;
pub mod clock;
pub mod files;
pub mod modules;
pub mod network;
pub mod power;
pub mod shares;
