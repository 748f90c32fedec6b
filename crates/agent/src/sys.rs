//! System calls that rustix does not offer, or not with raw numbers from the host, as thin safe functions.
//!
//! All numbers and structures are those of Linux' `include/uapi`; nothing here decides anything.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::CString;

type Result<T> = std::result::Result<T, Errno>;

fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// From `include/uapi/linux/sched.h`; does not fit the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone_process`] returns on its two sides.
pub enum Cloned {
    /// In the new process.
    Child,
    /// In the caller.
    Parent {
        /// The child, as the caller's pid namespace numbers it.
        pid: Pid,
        /// The child, for ever.
        pidfd: OwnedFd,
    },
}

/// clone3(2) with `CLONE_PIDFD`, like fork(2) in everything that `flags` does not say.
///
/// The agent has one thread, so the child may go on using everything, allocation included.
///
/// # Errors
/// Those of clone3(2).
pub fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no stack and no CLONE_VM: the child runs on a copy of this memory, and this process has one thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel has just made this file descriptor for us.
        Some(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// _exit(2): ends this process without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

/// Arguments and environment for execve(2), ready before a fork so that nothing is allocated after it.
pub struct Image {
    path: CString,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// What the pointers above point into.
    _strings: Vec<CString>,
}

impl Image {
    /// Takes the strings over.
    ///
    /// # Errors
    /// EINVAL when one holds a null byte.
    pub fn new(path: &str, args: &[String], env: &[String]) -> Result<Image> {
        let own = |s: &str| CString::new(s).map_err(|_| Errno::INVAL);
        let strings: Vec<CString> = args.iter().chain(env).map(|s| own(s)).collect::<Result<_>>()?;
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (head, tail) = strings.split_at(args.len());
        Ok(Image { path: own(path)?, args: pointers(head), env: pointers(tail), _strings: strings })
    }

    /// execve(2); returns only its error.
    pub fn execute(&self) -> Errno {
        // SAFETY: both arrays end with a null pointer, and the strings they point to live as long as `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.args.as_ptr(), self.env.as_ptr()) };
        Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
    }
}

/// Closes every file descriptor except those in `keep`.
pub fn close_all_except(keep: &mut Vec<RawFd>) {
    keep.sort_unstable();
    let mut from: u32 = 0;
    for fd in keep.iter().map(|fd| *fd as u32).chain([u32::MAX]) {
        if fd > from {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: the caller never uses (nor drops) the descriptors it did not keep.
            unsafe { libc::syscall(libc::SYS_close_range, from, last, 0u32) };
        }
        from = fd.saturating_add(1);
    }
}

/// dup2(2) onto one of the standard files (0, 1, 2), which then stays open over execve(2).
///
/// # Errors
/// Those of dup2(2).
pub fn put_at(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: only the standard files are replaced, which no OwnedFd of this program owns.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) })).map(drop)
}

/// mount_setattr(2) on the mount of `fd` itself, or with all mounts below it.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let call = libc::SYS_mount_setattr;
    // SAFETY: path is an empty string and attr a structure of the size given.
    let result =
        unsafe { libc::syscall(call, fd.as_raw_fd(), c"".as_ptr(), flags, attr, size_of::<MountAttr>()) };
    check(result).map(drop)
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// One of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE; 0 leaves it.
    pub propagation: u64,
    /// User namespace for MOUNT_ATTR_IDMAP.
    pub user_namespace: u64,
}

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

/// Mixes `bytes` into the kernel's random pool and credits them fully (RNDADDENTROPY).
///
/// # Errors
/// Those of the ioctl.
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    let mut info = Vec::with_capacity(8 + bytes.len());
    info.extend_from_slice(&(bytes.len() as i32 * 8).to_ne_bytes());
    info.extend_from_slice(&(bytes.len() as i32).to_ne_bytes());
    info.extend_from_slice(bytes);
    /// `_IOW('R', 0x03, int[2])`, the same on every architecture with the generic ioctl numbers.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    // SAFETY: info is a struct rand_pool_info: entropy count in bits, size in bytes, data.
    check(libc::c_long::from(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, info.as_ptr()) }))
        .map(drop)
}

/// Sets IFF_UP on the network interface `name` through any socket.
///
/// # Errors
/// Those of the ioctls SIOCGIFFLAGS and SIOCSIFFLAGS.
pub fn interface_up(socket: BorrowedFd<'_>, name: &str) -> Result<()> {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    let fd = socket.as_raw_fd();
    // SAFETY: request is a struct ifreq with a terminated name.
    check(libc::c_long::from(unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &raw mut request) }))?;
    // SAFETY: the kernel has filled in the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw mut request) })).map(drop)
}

/// Which signals a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalSet {
    /// No signal.
    Empty,
    /// SIGCHLD alone.
    Child,
    /// Every signal.
    Full,
}

fn signal_set(which: SignalSet) -> libc::sigset_t {
    // SAFETY: all-zero is a valid value; the calls below only write to the set.
    unsafe {
        let mut set = std::mem::zeroed();
        match which {
            SignalSet::Empty => libc::sigemptyset(&raw mut set),
            SignalSet::Child => libc::sigaddset(&raw mut set, libc::SIGCHLD),
            SignalSet::Full => libc::sigfillset(&raw mut set),
        };
        set
    }
}

/// Blocks exactly these signals.
pub fn block_signals(which: SignalSet) {
    let set = signal_set(which);
    // SAFETY: set is valid; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Gives SIGPIPE, which the Rust runtime ignores, its default action back: an ignored signal stays so over execve(2).
pub fn default_sigpipe() {
    // SAFETY: sets a default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// signalfd(2), non-blocking and close-on-exec.
///
/// # Errors
/// Those of signalfd(2).
pub fn signal_fd(which: SignalSet) -> Result<OwnedFd> {
    let set = signal_set(which);
    // SAFETY: set is valid.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    check(libc::c_long::from(fd))?;
    // SAFETY: the kernel has just made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal of a [`signal_fd`], if there is one.
pub fn next_signal(fd: impl AsFd) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut info) {
        Ok(n) if n == info.len() => info.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)),
        _ => None,
    }
}

/// pidfd_send_signal(2) with a raw number.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let (call, info) = (libc::SYS_pidfd_send_signal, std::ptr::null::<libc::siginfo_t>());
    // SAFETY: no siginfo is given.
    check(unsafe { libc::syscall(call, pidfd.as_raw_fd(), signal, info, 0u32) }).map(drop)
}

/// kill(2) with a raw number.
///
/// # Errors
/// Those of kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: two integers.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// setns(2) on a pidfd or a namespace file, with CLONE_NEW* flags.
///
/// # Errors
/// Those of setns(2).
pub fn set_namespaces(fd: BorrowedFd<'_>, flags: i32) -> Result<()> {
    // SAFETY: one thread; what it sees of the system changes, its memory does not.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), flags) })).map(drop)
}

/// unshare(2) with CLONE_NEW* flags.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: only namespaces are given, so that no file descriptor or memory sharing changes.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

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

/// Gives memory of more than 64 KiB back to the kernel when it is freed, whatever was freed before.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two tuning parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}
