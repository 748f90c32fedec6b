//! A vCPU's thread: runs the guest, and does what the guest's register accesses ask for.

use super::Argument::Is;
use super::{Call, KVM_SET_USER_MEMORY_REGION, KVMIO, any, ioc, when};

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

/// Connects an eventfd with an interrupt; `struct kvm_irqfd` has 32 bytes.
const KVM_IRQFD: u32 = ioc(1, KVMIO, 0x76, 32);

/// Says what interrupts are; `struct kvm_irq_routing` has 8 bytes before its entries.
const KVM_SET_GSI_ROUTING: u32 = ioc(1, KVMIO, 0x6A, 8);

/// Connects the device's interrupts with eventfds: `_IO(';', 110)`.
const VFIO_DEVICE_SET_IRQS: u32 = ioc(0, b';', 110, 0);

/// Functions of the host: their registers, and where the guest puts BARs and interrupts. What they reach of memory was told before, and
/// nobody can tell it otherwise.
pub const VFIO: &[Call] = &[
    when(
        libc::SYS_ioctl,
        &[
            &[Is(1, VFIO_DEVICE_SET_IRQS)],
            &[Is(1, KVM_SET_USER_MEMORY_REGION)],
            &[Is(1, KVM_IRQFD)],
            &[Is(1, KVM_SET_GSI_ROUTING)],
        ],
    ),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
];
