//! The main thread: the event loop, and what is left to do when the machine has ended.

use super::Argument::{Is, IsOwnProcess, Lacks};
use super::{Call, KVM_SET_USER_MEMORY_REGION, any, when};
use libc::PROT_EXEC;

pub const CALLS: &[Call] = &[
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    // The terminal as it was before.
    when(
        libc::SYS_ioctl,
        &[
            &[Is(1, libc::TCSETS2 as u32)],
            &[Is(1, libc::TCSETS as u32)],
            // net: which queues of the tap get frames. A tap with one queue refuses it.
            &[Is(1, libc::TUNSETQUEUE as u32)],
        ],
    ),
];

/// SIGRTMIN, with which vCPUs are stopped: the first that glibc leaves to programs (signal(7)).
const SIGRTMIN: u32 = 34;

/// The control socket: its clients, stopping vCPUs by a signal, statistics, taking devices away (a share that goes looks at its root once
/// more).
pub const CONTROL: &[Call] = &[
    any(libc::SYS_accept4),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    any(libc::SYS_getpid),
    when(libc::SYS_tgkill, &[&[IsOwnProcess(0), Is(2, SIGRTMIN)]]),
    when(libc::SYS_ioctl, &[&[Is(1, KVM_SET_USER_MEMORY_REGION)]]),
    any(libc::SYS_statx),
    any(libc::SYS_lseek),
    any(libc::SYS_pread64),
];

/// Devices that come (`--hotplug`): looking at what a client has opened, and mapping it.
pub const HOTPLUG: &[Call] = &[
    // An image.
    when(libc::SYS_mmap, &[&[Lacks(2, PROT_EXEC as u32)]]),
    // A disk: whether it was opened for writing. A share: /proc/self/fd once more.
    when(libc::SYS_fcntl, &[&[Is(1, libc::F_GETFL as u32)], &[Is(1, libc::F_DUPFD_CLOEXEC as u32)]]),
    // A share: whether its mount is as it has to be.
    any(libc::SYS_fstatfs),
    // A tap: the size of its header.
    when(libc::SYS_ioctl, &[&[Is(1, libc::TUNSETVNETHDRSZ as u32)]]),
    // What the device's threads are done with.
    any(libc::SYS_eventfd2),
];

/// Sockets that have a name in the file system, which goes at the end.
pub const NAMES: &[Call] = &[any(libc::SYS_newfstatat), any(libc::SYS_unlinkat)];
