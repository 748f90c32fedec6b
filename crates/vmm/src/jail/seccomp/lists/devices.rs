//! What devices do on the event loop, and on a vCPU's thread while the guest starts or resets them.

use super::Argument::Is;
use super::{Call, KVM_SIGNAL_MSI, KVMIO, any, ioc, when};

/// Connects a doorbell with an eventfd; `struct kvm_ioeventfd` has 64 bytes.
const KVM_IOEVENTFD: u32 = ioc(1, KVMIO, 0x79, 64);

pub const CALLS: &[Call] = &[
    when(
        libc::SYS_ioctl,
        &[
            &[Is(1, KVM_SIGNAL_MSI)],
            &[Is(1, KVM_IOEVENTFD)],
            // net: which packets the tap may hand out.
            &[Is(1, libc::TUNSETOFFLOAD as u32)],
            // vsock: sockets that do not block.
            &[Is(1, libc::FIONBIO as u32)],
        ],
    ),
    // Eventfds, timers, consoles, taps, sockets; block: what the page cache has.
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_preadv2),
    // A serial console whose reader is slow.
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    any(libc::SYS_epoll_ctl),
    // Rate limits, of devices that come later as well.
    any(libc::SYS_timerfd_create),
    any(libc::SYS_timerfd_settime),
    // vsock, on the agent's socket as on others.
    any(libc::SYS_sendto),
    any(libc::SYS_shutdown),
];

/// vsock with names: UNIX sockets only.
pub const SOCKETS: &[Call] = &[
    when(libc::SYS_socket, &[&[Is(0, libc::AF_UNIX as u32)]]),
    any(libc::SYS_connect),
    any(libc::SYS_accept4),
    any(libc::SYS_recvfrom),
    // To the one directory that it has.
    any(libc::SYS_fchdir),
];
