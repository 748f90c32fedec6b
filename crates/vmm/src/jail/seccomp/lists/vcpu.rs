//! A vCPU's thread: runs the guest, and does what the guest's register accesses ask for.

use super::Argument::Is;
use super::{Call, KVMIO, any, ioc, when};

const KVM_RUN: u32 = ioc(0, KVMIO, 0x80, 0);

/// After a pause: time has passed that the guest's watchdogs must not hold against it.
const KVM_KVMCLOCK_CTRL: u32 = ioc(0, KVMIO, 0xAD, 0);

/// For the message when KVM cannot go on; `struct kvm_regs` has 144 bytes.
const KVM_GET_REGS: u32 = ioc(2, KVMIO, 0x81, 144);

pub const CALLS: &[Call] = &[
    // The first rule of the list is the first that is looked at.
    when(libc::SYS_ioctl, &[&[Is(1, KVM_RUN)], &[Is(1, KVM_GET_REGS)], &[Is(1, KVM_KVMCLOCK_CTRL)]]),
    // Doorbells of a device that is started: an eventfd, twice.
    any(libc::SYS_eventfd2),
    when(libc::SYS_fcntl, &[&[Is(1, libc::F_DUPFD_CLOEXEC as u32)]]),
    // A share that is reset looks at its root again.
    any(libc::SYS_statx),
];
