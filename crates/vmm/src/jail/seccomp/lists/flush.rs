//! The thread that writes a pmem image back.

use super::{Call, any};

pub const CALLS: &[Call] = &[any(libc::SYS_fdatasync)];
