//! The main thread of `serve`: speaks with another VMM, whose guest memory it maps.

use super::Argument::{Is, Lacks};
use super::{Call, any, when};
use libc::PROT_EXEC;

pub const CALLS: &[Call] = &[
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl),
    // Messages and the descriptors that come with them.
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    // Doorbells.
    any(libc::SYS_read),
    when(libc::SYS_fcntl, &[&[Is(1, libc::F_DUPFD_CLOEXEC as u32)]]),
    // Guest memory, and how long its file is.
    when(libc::SYS_mmap, &[&[Lacks(2, PROT_EXEC as u32)]]),
    any(libc::SYS_statx),
    // Waits for requests under way when a queue is stopped.
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
];
