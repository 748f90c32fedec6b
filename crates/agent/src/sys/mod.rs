//! System calls that rustix does not offer, or not with raw numbers from the host, as thin safe functions.
//!
//! All numbers and structures are those of Linux' `include/uapi`; nothing here decides anything.

mod bpf;
mod limits;
mod machine;
mod process;
mod rights;
mod signals;

pub use bpf::{BpfHook, BpfInstruction, bpf_attach, bpf_load};
pub use limits::{set_io_priority, set_limit, set_personality, set_scheduler};
pub use machine::{
    MountAttr, add_entropy, boottime_us, connect_to_host, interface_up, keep_heap_small, mount_setattr,
    network_cookie,
};
pub use process::{
    Cloned, Image, Namespace, clone_process, close_all_except, exit_now, namespace, put_at, set_namespaces,
    unshare,
};
pub use rights::{prctl, set_capabilities, set_groups, set_ids, set_seccomp_filter};
pub use signals::{
    SignalSet, block_signals, default_sigpipe, ignore_sigpipe, kill, next_signal, send_signal, signal_fd,
};

use rustix::io::Errno;

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
