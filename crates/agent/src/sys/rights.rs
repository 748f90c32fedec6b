//! What a process may do: ids, capabilities, prctl(2), seccomp(2).
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use super::{Result, check};
use rustix::io::Errno;

/// setgroups(2).
///
/// # Errors
/// Those of setgroups(2).
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length belong together.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// setresgid(2) and setresuid(2), all three ids of each alike, of this thread.
///
/// # Errors
/// Those of the two calls.
pub fn set_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// prctl(2) with one to four integers.
///
/// # Errors
/// Those of prctl(2).
pub fn prctl(option: i32, args: [u64; 4]) -> Result<i32> {
    let [a, b, c, d] = args;
    // SAFETY: the callers use options whose arguments are integers.
    check(libc::c_long::from(unsafe { libc::prctl(option, a, b, c, d) })).map(|n| n as i32)
}

/// capset(2) for this process: effective, permitted, inheritable.
///
/// # Errors
/// Those of capset(2).
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    /// _LINUX_CAPABILITY_VERSION_3.
    const VERSION: u32 = 0x2008_0522;
    let head = [VERSION, 0];
    let (low, high) = (|n: u64| n as u32, |n: u64| (n >> 32) as u32);
    let data = [
        [low(effective), low(permitted), low(inheritable)],
        [high(effective), high(permitted), high(inheritable)],
    ];
    // SAFETY: head and data have the layout of version 3: two sets of three words.
    check(unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), data.as_ptr()) }).map(drop)
}

/// seccomp(2) with SECCOMP_SET_MODE_FILTER. Instructions are (code, jt, jf, k).
///
/// # Errors
/// Those of seccomp(2).
pub fn set_seccomp_filter(flags: u32, program: &[(u16, u8, u8, u32)]) -> Result<()> {
    let filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let length = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let fprog = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    let call = libc::SYS_seccomp;
    // SAFETY: fprog points to `length` instructions, which the kernel copies.
    check(unsafe { libc::syscall(call, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) }).map(drop)
}
