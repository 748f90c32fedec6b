//! Where the C library enters the program.
//!
//! Not through Rust's own runtime: before `main` that looks at the standard files, and finds the stack (in a /proc that is
//! not mounted yet) to put a guard and a signal handler's stack beside it. PID 1 sets its own standard files, and
//! the kernel has its own word for a PID 1 that overflows its stack. In every machine this runs once, and by emulation what
//! runs once is what costs.
#![expect(unsafe_code, reason = "the name by which the C library finds it")]

use std::ffi::{c_char, c_int};

// SAFETY: the only `main` of the program, with the signature that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    crate::run()
}
