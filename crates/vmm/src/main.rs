//! clear-vmm: runs a virtual machine. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::run(std::time::Instant::now())
}
