//! bpf(2) for programs of control groups.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use super::{Result, check, size};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// One instruction of `struct bpf_insn`: code, registers (dst | src << 4), offset, immediate.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInstruction {
    /// Operation.
    pub code: u8,
    /// Destination in the low half, source in the high half.
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Immediate.
    pub immediate: i32,
}

/// What a program of a control group is for. Numbers: `enum bpf_prog_type`, `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfHook {
    /// BPF_CGROUP_DEVICE: may a device be used?
    Device,
    /// BPF_CGROUP_INET4_CONNECT: changes the address of connect(2).
    Connect,
    /// BPF_CGROUP_UDP4_SENDMSG: that of sendmsg(2).
    Send,
    /// BPF_CGROUP_UDP4_RECVMSG: that which recvmsg(2) gives.
    Receive,
    /// BPF_CGROUP_INET4_GETPEERNAME: that which getpeername(2) gives.
    PeerName,
}

impl BpfHook {
    /// Type of the program, and where it is attached.
    fn numbers(self) -> (u32, u32) {
        const CGROUP_DEVICE: u32 = 15;
        const CGROUP_SOCK_ADDR: u32 = 18;
        match self {
            BpfHook::Device => (CGROUP_DEVICE, 6),
            BpfHook::Connect => (CGROUP_SOCK_ADDR, 10),
            BpfHook::Send => (CGROUP_SOCK_ADDR, 14),
            BpfHook::Receive => (CGROUP_SOCK_ADDR, 19),
            BpfHook::PeerName => (CGROUP_SOCK_ADDR, 29),
        }
    }
}

/// bpf(2): loads a program.
///
/// # Errors
/// Those of bpf(2).
pub fn bpf_load(hook: BpfHook, program: &[BpfInstruction]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach: u32,
    }
    const PROG_LOAD: i32 = 5;
    let (kind, attach) = hook.numbers();
    let attr = Load {
        kind,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach,
    };
    // SAFETY: attr is a leading part of union bpf_attr with its size; its pointers live until after the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attr, size::<Load>()) })?;
    // SAFETY: the kernel has just made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// bpf(2): attaches (or detaches) a program to a cgroup, beside others.
///
/// # Errors
/// Those of bpf(2).
pub fn bpf_attach(
    hook: BpfHook,
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    attach: bool,
) -> Result<()> {
    const PROG_ATTACH: i32 = 8;
    const PROG_DETACH: i32 = 9;
    const ALLOW_MULTI: u32 = 2;
    let attr = [
        cgroup.as_raw_fd() as u32,
        program.as_raw_fd() as u32,
        hook.numbers().1,
        if attach { ALLOW_MULTI } else { 0 },
    ];
    let command = if attach { PROG_ATTACH } else { PROG_DETACH };
    // SAFETY: attr is a leading part of union bpf_attr with its size.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) }).map(drop)
}
