//! The system calls that each kind of thread may make. Read by the build script, which compiles them; not part of the program.
//!
//! ```text
//!   every.rs ───────────────┬─► disk.rs    reads and writes a disk            block
//!     memory, locks, ends   ├─► flush.rs   writes an image back               pmem
//!                           ├─► share.rs   files of a shared directory        fs
//!                           ├─► vhost_user.rs  a device for another VMM
//!                           └─► devices.rs what devices do ─┬─► event_loop.rs
//!                                                           └─► vcpu.rs
//! ```
//!
//! A call that is in no list ends the process. Pointers cannot be judged by a filter: what a call may reach is the business of the
//! empty root, the namespaces and the capabilities.

mod devices;
mod disk;
mod event_loop;
mod every;
mod flush;
mod share;
mod vcpu;
mod vhost_user;

/// A condition on one argument, counted from 0. Only its low 32 bits are looked at: all of these are `int` or `unsigned int`, or hold flags.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    /// It is this.
    Is(u8, u32),
    /// It has all of these bits.
    Has(u8, u32),
    /// It has none of these bits.
    Lacks(u8, u32),
    /// It is the process id of the caller, which the program puts in where it finds [`OWN_PROCESS`].
    IsOwnProcess(u8),
}

include!("own_process.rs");

/// A system call that is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// It is allowed when all conditions of one of these hold; with none, always.
    pub when: &'static [&'static [Argument]],
}

/// Whatever its arguments.
const fn any(number: i64) -> Call {
    Call { number, when: &[] }
}

/// In one of these cases.
const fn when(number: i64, when: &'static [&'static [Argument]]) -> Call {
    Call { number, when }
}

/// The list of one kind of thread.
pub struct List {
    /// Name of the constant.
    pub name: &'static str,
    /// Its parts.
    pub parts: &'static [&'static [Call]],
}

/// All lists. `..._SOCKETS` are for machines whose guest may reach sockets by name (`--vsock PATH`), `..._VFIO` for those whose guest drives
/// functions of the host.
pub const LISTS: &[List] = &[
    List { name: "EVENT_LOOP", parts: &[every::CALLS, devices::CALLS, event_loop::CALLS] },
    List {
        name: "EVENT_LOOP_SOCKETS",
        parts: &[every::CALLS, devices::CALLS, event_loop::CALLS, devices::SOCKETS, event_loop::NAMES],
    },
    List {
        name: "EVENT_LOOP_CONTROL",
        parts: &[every::CALLS, devices::CALLS, event_loop::CALLS, event_loop::CONTROL, event_loop::NAMES],
    },
    List {
        name: "EVENT_LOOP_SOCKETS_CONTROL",
        parts: &[
            every::CALLS,
            devices::CALLS,
            event_loop::CALLS,
            devices::SOCKETS,
            event_loop::CONTROL,
            event_loop::NAMES,
        ],
    },
    List {
        name: "EVENT_LOOP_HOTPLUG",
        parts: &[
            every::CALLS,
            devices::CALLS,
            event_loop::CALLS,
            event_loop::CONTROL,
            event_loop::HOTPLUG,
            event_loop::NAMES,
        ],
    },
    List {
        name: "EVENT_LOOP_SOCKETS_HOTPLUG",
        parts: &[
            every::CALLS,
            devices::CALLS,
            event_loop::CALLS,
            devices::SOCKETS,
            event_loop::CONTROL,
            event_loop::HOTPLUG,
            event_loop::NAMES,
        ],
    },
    List { name: "VHOST_USER", parts: &[every::CALLS, vhost_user::CALLS, event_loop::NAMES] },
    List { name: "VCPU", parts: &[vcpu::CALLS, every::CALLS, devices::CALLS] },
    List { name: "VCPU_SOCKETS", parts: &[vcpu::CALLS, every::CALLS, devices::CALLS, devices::SOCKETS] },
    List { name: "VCPU_VFIO", parts: &[vcpu::CALLS, every::CALLS, devices::CALLS, vcpu::VFIO] },
    List {
        name: "VCPU_SOCKETS_VFIO",
        parts: &[vcpu::CALLS, every::CALLS, devices::CALLS, devices::SOCKETS, vcpu::VFIO],
    },
    List { name: "DISK", parts: &[every::CALLS, disk::CALLS] },
    List { name: "FLUSH", parts: &[every::CALLS, flush::CALLS] },
    List { name: "SHARE_READONLY", parts: &[every::CALLS, share::READ, share::READ_ONLY] },
    List { name: "SHARE", parts: &[every::CALLS, share::READ, share::WRITE] },
];

/// `_IOC(direction, type, number, size)` of Linux `include/uapi/asm-generic/ioctl.h`; direction 1 writes, 2 reads.
const fn ioc(direction: u32, kind: u8, number: u8, size: u32) -> u32 {
    direction << 30 | size << 16 | (kind as u32) << 8 | number as u32
}

/// Type of KVM's requests.
const KVMIO: u8 = 0xAE;

/// Gives memory to the guest, or takes it away; `struct kvm_userspace_memory_region` has 32 bytes.
const KVM_SET_USER_MEMORY_REGION: u32 = ioc(1, KVMIO, 0x46, 32);

/// Injects a message-signalled interrupt; `struct kvm_msi` has 32 bytes.
const KVM_SIGNAL_MSI: u32 = ioc(1, KVMIO, 0xA5, 32);
