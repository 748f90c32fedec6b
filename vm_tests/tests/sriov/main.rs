//! Tests of functions of the host that are passed to machines. They take a network adapter for themselves, so they run in a lab that has
//! one to spare, `cargo xtask lab --sriov`, and say so in one line elsewhere. The mini-OS (`CLEAR_TEST_MINI_OS`) needs the driver igbvf:
//! the kernel of `lab-host` has it, and so has `lab-debian`.
//!
//! One after another: they share the adapter.

mod adapter;
mod container;
mod machine;
