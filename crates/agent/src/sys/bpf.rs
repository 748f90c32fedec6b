//! bpf(2) for programs that decide about devices.
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

/// bpf(2): loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE.
///
/// # Errors
/// Those of bpf(2).
pub fn bpf_load_device_filter(program: &[BpfInstruction]) -> Result<OwnedFd> {
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
    }
    const PROG_LOAD: i32 = 5;
    const CGROUP_DEVICE: u32 = 15;
    let attr = Load {
        kind: CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: attr is a leading part of union bpf_attr with its size; its pointers live until after the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attr, size::<Load>()) })?;
    // SAFETY: the kernel has just made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// bpf(2): attaches (or detaches) a device program to a cgroup, beside others.
///
/// # Errors
/// Those of bpf(2).
pub fn bpf_attach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, attach: bool) -> Result<()> {
    const PROG_ATTACH: i32 = 8;
    const PROG_DETACH: i32 = 9;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let attr = [
        cgroup.as_raw_fd() as u32,
        program.as_raw_fd() as u32,
        CGROUP_DEVICE,
        if attach { ALLOW_MULTI } else { 0 },
    ];
    let command = if attach { PROG_ATTACH } else { PROG_DETACH };
    // SAFETY: attr is a leading part of union bpf_attr with its size.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) }).map(drop)
}
