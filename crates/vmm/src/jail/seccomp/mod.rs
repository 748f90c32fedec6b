//! The system call filters. What they allow stands in `lists/`; the build script compiles it.

use super::{Doors, Role};
use seccompiler::sock_filter;

/// What happens to a thread that makes a forbidden system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Violation {
    /// The machine ends by SIGSYS
    #[default]
    Kill,
    /// The call is done and the kernel's log says so: for finding out what a new host needs
    Log,
}

/// A compiled list.
pub struct Filter {
    kill: &'static [sock_filter],
    log: &'static [sock_filter],
}

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

include!("lists/own_process.rs");

/// The filters, one constant for each list.
mod filters {
    use super::{Filter, instruction};
    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

/// The filter of a role.
fn filter(role: Role, doors: Doors) -> &'static Filter {
    match role {
        Role::EventLoop => match (doors.sockets, doors.control, doors.hotplug) {
            (false, false, _) => &filters::EVENT_LOOP,
            (true, false, _) => &filters::EVENT_LOOP_SOCKETS,
            (false, true, false) => &filters::EVENT_LOOP_CONTROL,
            (true, true, false) => &filters::EVENT_LOOP_SOCKETS_CONTROL,
            (false, true, true) => &filters::EVENT_LOOP_HOTPLUG,
            (true, true, true) => &filters::EVENT_LOOP_SOCKETS_HOTPLUG,
        },
        Role::VhostUser => &filters::VHOST_USER,
        Role::Vcpu => match (doors.sockets, doors.vfio) {
            (false, false) => &filters::VCPU,
            (true, false) => &filters::VCPU_SOCKETS,
            (false, true) => &filters::VCPU_VFIO,
            (true, true) => &filters::VCPU_SOCKETS_VFIO,
        },
        Role::Disk => &filters::DISK,
        Role::Flush => &filters::FLUSH,
        Role::Share { readonly: true } => &filters::SHARE_READONLY,
        Role::Share { readonly: false } => &filters::SHARE,
    }
}

/// Sets the filter of `role` for the calling thread, for good.
///
/// # Errors
/// When the kernel has no seccomp.
pub fn install(role: Role, doors: Doors, violation: Violation) -> Result<(), seccompiler::Error> {
    let Filter { kill, log } = filter(role, doors);
    let program = match violation {
        Violation::Kill => kill,
        Violation::Log => log,
    };
    let own = std::process::id();
    let known = |one: &sock_filter| {
        instruction(one.code, one.jt, one.jf, if one.k == OWN_PROCESS { own } else { one.k })
    };
    seccompiler::apply_filter(&program.iter().map(known).collect::<Vec<_>>())
}
