//! `clear-mini-os`: builds what a machine boots, the kernel and the image with the agent in it.
//!
//! ```text
//!   Debian's kernel package ─┐                     ┌─► initramfs (cpio)
//!   Debian's kernel source  ─┴─► kernels/<key> ─┐  │
//!   agent, manifest's files and packages ───────┴──┴─► image (EROFS) ─► objects/<key> ◄── refs/<name>
//! ```
//!
//! A key is the hash of everything that goes in, so a build that was done before costs nothing. The layout of the
//! store is the contract in `machine_spec::mini_os`; `cor` and `clear-vmm` only read it.
//!
//! The library is there for the program and for the generator of its man page; nothing else may use it.

mod apt;
mod commands;
mod digest;
mod elf;
mod image;
mod kernel;
mod manifest;
mod process;
mod progress;
mod store;

pub use commands::CommandLine;

use clap::Parser;
use std::process::ExitCode;

/// The program.
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    match commands::run(line) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("clear-mini-os: {error:#}");
            ExitCode::FAILURE
        }
    }
}
