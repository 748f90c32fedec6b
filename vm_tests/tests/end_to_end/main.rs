//! End-to-end tests: one sentence of what is promised, one test, run on the real programs.
//!
//! A test that fails shows the commands it ran; `Sandbox` checks after each one that nothing is left on the host.

mod bad_input;
mod debian;
mod directories;
mod events;
mod exec;
mod faults;
mod guest_files;
mod guest_isolation;
mod guest_limits;
mod hooks;
mod host_devices;
mod lifecycle;
mod logs;
mod machine_size;
mod mini_os;
mod network;
mod network_models;
mod pause;
mod run;
mod stdio;
mod terminals;
mod tools;
mod try_;
mod update;
mod user_network;

/// The guest's half of tests that no shell can do.
const GUEST_HALF: &str = env!("CARGO_BIN_EXE_guest_half");
