//! What the end-to-end tests stand on: they run the real programs, and no library of this workspace.
//!
//! ```text
//!   Sandbox   private --root, configuration and directory of one test; on drop: delete --force of everything, then
//!      │      the leak check (processes, mounts, control groups, interfaces, files)
//!      ├─ Bundle     rootfs with a static busybox, config.json out of `cor spec` and changed by the test
//!      ├─ Cor        one `cor` command with a deadline ─► Output (code, stdout, stderr)
//!      └─ Container  a container that runs `sleep`, for tests that exec into it
//!   Machine   a machine of `clear-vmm` on KVM ─► Guest, which does what it is told   Tap  its network
//!   LoopDisk  a block device of the host
//!   Network   the container's network namespace and its peer's
//!   Terminal  a pseudo-terminal with a program on it      ConsoleSocket  what an engine listens on
//! ```
//!
//! Environment: `CLEAR_TEST_PROGRAMS` (directory of the programs), `CLEAR_MINI_OS_STORE` (store of mini-OSes) and
//! `CLEAR_TEST_MINI_OS` (name of the one to boot; else `container` if there is one, else `default`).

mod bundle;
mod command;
mod container;
pub mod engine;
mod guest;
mod leak;
mod loop_disk;
mod machine;
mod needs;
mod network;
mod programs;
mod sandbox;
mod tap;
mod terminal;
mod wait;

pub use bundle::{Bundle, full_capabilities, mount, remove_namespace};
pub use command::{Command, Output, Running};
pub use container::Container;
pub use guest::{Guest, PARAMETERS, initramfs, kernel, kernel_of};
pub use leak::{Leaks, processes_with};
pub use loop_disk::LoopDisk;
pub use machine::{Machine, ctl};
pub use needs::{on_kvm, on_network, on_podmans_pods, on_readable_groups};
pub use network::{Network, OURS, PEER, make_taps_stay};
pub use programs::Programs;
pub use sandbox::Sandbox;
pub use tap::Tap;
pub use terminal::{ConsoleSocket, Terminal, send_signal};
pub use wait::{PATIENCE, until};
