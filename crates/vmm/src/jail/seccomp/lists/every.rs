//! What each thread needs, whatever it does: memory, locks, the log, its end.

use super::Argument::{Has, Is, Lacks};
use super::{Call, any, when};
use libc::{MADV_DONTNEED, MADV_REMOVE, MAP_ANONYMOUS, PROT_EXEC};

pub const CALLS: &[Call] = &[
    // The allocator: never memory that can be executed.
    any(libc::SYS_brk),
    when(libc::SYS_mmap, &[&[Has(3, MAP_ANONYMOUS as u32), Lacks(2, PROT_EXEC as u32)]]),
    when(libc::SYS_mprotect, &[&[Lacks(2, PROT_EXEC as u32)]]),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    // A thread's stack when it ends; memory that the guest gives back.
    when(libc::SYS_madvise, &[&[Is(2, MADV_DONTNEED as u32)], &[Is(2, MADV_REMOVE as u32)]]),
    // Locks and condition variables.
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    // After SIGSTOP and SIGCONT, or a debugger, in the middle of a wait.
    any(libc::SYS_restart_syscall),
    // Where the host's clock cannot be read without a system call.
    any(libc::SYS_clock_gettime),
    // Seeds of hash tables; entropy for the guest.
    any(libc::SYS_getrandom),
    // Eventfds, the log.
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_close),
    // A program with debug assertions looks whether what it closes is open.
    when(libc::SYS_fcntl, &[&[Is(1, libc::F_GETFD as u32)]]),
    // Faults: the runtime's handler takes itself away so that the fault ends the process.
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    // The end of a thread, of the process.
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
];
