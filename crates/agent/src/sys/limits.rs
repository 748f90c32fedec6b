//! Limits and priorities of one process, set from outside, and its personality.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use super::{Result, check, size};
use rustix::process::Pid;

/// prlimit(2).
///
/// # Errors
/// Those of prlimit(2).
pub fn set_limit(pid: Pid, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let new = [soft, hard];
    let (pid, old) = (pid.as_raw_nonzero().get(), std::ptr::null::<u64>());
    // SAFETY: `new` has the layout of struct rlimit64: soft and hard limit.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new.as_ptr(), old) }).map(drop)
}

/// ioprio_set(2) for one process.
///
/// # Errors
/// Those of ioprio_set(2).
pub fn set_io_priority(pid: Pid, class: u8, level: u8) -> Result<()> {
    /// IOPRIO_WHO_PROCESS and IOPRIO_CLASS_SHIFT of `include/uapi/linux/ioprio.h`.
    const WHO_PROCESS: i32 = 1;
    const CLASS_SHIFT: i32 = 13;
    let value = (i32::from(class) << CLASS_SHIFT) | i32::from(level);
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: three integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, value) }).map(drop)
}

/// sched_setattr(2) for one process.
///
/// # Errors
/// Those of sched_setattr(2).
pub fn set_scheduler(pid: Pid, s: &guest_protocol::message::Scheduler) -> Result<()> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = SchedAttr {
        size: size::<SchedAttr>(),
        policy: s.policy,
        flags: s.flags,
        nice: s.nice,
        priority: s.priority,
        runtime: s.runtime,
        deadline: s.deadline,
        period: s.period,
    };
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: attr says its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attr, 0u32) }).map(drop)
}

/// personality(2).
///
/// # Errors
/// Those of personality(2).
pub fn set_personality(persona: u32) -> Result<()> {
    // SAFETY: one integer.
    check(libc::c_long::from(unsafe { libc::personality(libc::c_ulong::from(persona)) })).map(drop)
}
