//! What users of Docker and Podman type.

mod devices;
mod exec;
mod faults;
mod files;
mod life;
mod limits;
pub mod network;
mod process;
mod refused;

use crate::Test;

/// All of them.
pub const ALL: [&[(&str, Test)]; 9] = [
    devices::TESTS,
    exec::TESTS,
    faults::TESTS,
    files::TESTS,
    life::TESTS,
    limits::TESTS,
    network::TESTS,
    process::TESTS,
    refused::TESTS,
];
