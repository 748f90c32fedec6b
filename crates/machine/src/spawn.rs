//! Starts a VMM process with nothing but what it needs: donated descriptors, few capabilities, no new privileges,
//! death with its launcher.
#![expect(unsafe_code, reason = "pre_exec runs raw system calls between fork and exec")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a VMM needs to serve a directory to the guest with the guest's owners and modes
/// (`include/uapi/linux/capability.h`): CHOWN 0, DAC_OVERRIDE 1, DAC_READ_SEARCH 2, FOWNER 3, FSETID 4, MKNOD 27, SETFCAP 31.
pub const SHARE_CAPABILITIES: u64 = 0b1_1111 | 1 << 27 | 1 << 31;

/// What a VMM needs that jails itself, and gives up by that: SETPCAP 8, SYS_ADMIN 21.
pub const JAIL_CAPABILITIES: u64 = 1 << 8 | 1 << 21;

/// Highest capability a kernel may know; dropping one it does not know is harmless.
const LAST_CAPABILITY: i32 = 63;

/// What a VMM may do.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// Capabilities that it has at most.
    pub capabilities: u64,
    /// Bytes that it may lock, if it has to lock any.
    pub locked: Option<u64>,
}

/// Starts `program` with `args` and these rights; `donated` keep their numbers in it.
pub fn spawn(
    program: &Path,
    args: &[String],
    donated: &[BorrowedFd<'_>],
    log: BorrowedFd<'_>,
    rights: Rights,
) -> io::Result<Child> {
    let keep: Vec<i32> = donated.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: getpid(2) has no preconditions.
    let parent = unsafe { libc::getpid() };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env_clear();
    command.stdout(log.try_clone_to_owned()?).stderr(log.try_clone_to_owned()?);
    // SAFETY: the closure makes only async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() != parent {
                // The launcher died before the line above took effect.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))?;
            for fd in &keep {
                check(libc::fcntl(*fd, libc::F_SETFD, 0))?;
            }
            if let Some(locked) = rights.locked {
                let limit = libc::rlimit { rlim_cur: locked, rlim_max: locked };
                check(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit))?;
            }
            drop_privileges(rights.capabilities)
        });
    }
    command.spawn()
}

/// Keeps only `capabilities`, for ever.
fn drop_privileges(capabilities: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // SAFETY: getuid and prctl take plain numbers; capset gets two live structures of the layout of capset(2), version 3.
    unsafe {
        if libc::geteuid() == 0 {
            for capability in 0..=LAST_CAPABILITY {
                if capabilities >> capability & 1 == 0 {
                    libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                }
            }
            let header = Header { version: 0x2008_0522, pid: 0 };
            let half = |shift: u32| {
                let bits = (capabilities >> shift) as u32;
                Data { effective: bits, permitted: bits, inheritable: 0 }
            };
            let data = [half(0), half(32)];
            check(libc::syscall(libc::SYS_capset, &header, data.as_ptr()) as i32)?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
