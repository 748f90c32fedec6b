//! A disk's threads. The file is open; they never open one.

use super::{Call, any};

pub const CALLS: &[Call] = &[
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_pwrite64),
    any(libc::SYS_fallocate),
    any(libc::SYS_fdatasync),
];
