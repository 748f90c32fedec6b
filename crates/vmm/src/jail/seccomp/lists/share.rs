//! A share's threads: files below the shared directory, which they reach by descriptors of it.

use super::Argument::{Is, Lacks};
use super::{Call, KVM_SIGNAL_MSI, any, when};
use libc::{MAP_ANONYMOUS, O_CREAT, O_RDWR, O_TRUNC, O_WRONLY, PROT_EXEC, PROT_WRITE};

/// Looking and reading.
pub const READ: &[Call] = &[
    any(libc::SYS_openat2),
    any(libc::SYS_statx),
    any(libc::SYS_fstatfs),
    any(libc::SYS_readlinkat),
    any(libc::SYS_getdents64),
    any(libc::SYS_lseek),
    any(libc::SYS_preadv),
    any(libc::SYS_getxattr),
    any(libc::SYS_listxattr),
    any(libc::SYS_fsync),
    any(libc::SYS_fdatasync),
    any(libc::SYS_syncfs),
    // Requests are answered without the event loop.
    when(libc::SYS_ioctl, &[&[Is(1, KVM_SIGNAL_MSI)]]),
];

/// A read-only share opens and maps nothing for writing. (What `openat2` is asked for lies in memory, which a filter does not see; the
/// mount is read-only besides.)
pub const READ_ONLY: &[Call] = &[
    when(libc::SYS_openat, &[&[Lacks(2, (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) as u32)]]),
    when(libc::SYS_mmap, &[&[Lacks(3, MAP_ANONYMOUS as u32), Lacks(2, (PROT_EXEC | PROT_WRITE) as u32)]]),
];

/// And writing.
pub const WRITE: &[Call] = &[
    any(libc::SYS_openat),
    when(libc::SYS_mmap, &[&[Lacks(3, MAP_ANONYMOUS as u32), Lacks(2, PROT_EXEC as u32)]]),
    any(libc::SYS_pwritev),
    any(libc::SYS_ftruncate),
    any(libc::SYS_fallocate),
    any(libc::SYS_copy_file_range),
    any(libc::SYS_umask),
    any(libc::SYS_mkdirat),
    any(libc::SYS_mknodat),
    any(libc::SYS_linkat),
    any(libc::SYS_symlinkat),
    any(libc::SYS_unlinkat),
    any(libc::SYS_renameat2),
    any(libc::SYS_fchmodat),
    any(libc::SYS_fchownat),
    any(libc::SYS_utimensat),
    any(libc::SYS_setxattr),
    any(libc::SYS_removexattr),
];
