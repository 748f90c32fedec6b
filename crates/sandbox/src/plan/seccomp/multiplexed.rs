//! System calls of 32-bit x86 that are reached in two ways: by their own number, and through `socketcall` or `ipc`, whose
//! first argument says which is meant. A rule for one way must hold for the other.

use super::policy::{Condition, stricter};
use super::tables::Abi;
use oci_spec::runtime::LinuxSeccompOperator;

/// `SYS_*` of `include/uapi/linux/net.h`, from 1 on, in order.
const SOCKET: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// Numbers of `include/uapi/linux/ipc.h`.
const IPC: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The rule for the other way to call `name`, as number and conditions.
///
/// The arguments themselves lie in memory then, where no filter can look. So a rule with conditions is taken as one
/// without if it forbids, and left out if it permits.
pub(super) fn also(
    abi: Abi,
    name: &str,
    conditions: &[Condition],
    action: u32,
    default: u32,
) -> Option<(u32, Vec<Condition>)> {
    if abi != Abi::X86 || (!conditions.is_empty() && !stricter(action, default)) {
        return None;
    }
    let socket = SOCKET.iter().position(|known| *known == name).map(|at| ("socketcall", at as u64 + 1));
    let ipc = || IPC.iter().find(|(known, _)| *known == name).map(|(_, which)| ("ipc", *which));
    let (through, which) = socket.or_else(ipc)?;
    let this = match through {
        // The upper half of ipc's first argument is a version; the kernel looks at the lower one.
        "ipc" => Condition {
            index: 0,
            operator: LinuxSeccompOperator::ScmpCmpMaskedEq,
            value: 0xffff,
            second: which,
        },
        _ => Condition { index: 0, operator: LinuxSeccompOperator::ScmpCmpEq, value: which, second: 0 },
    };
    Some((abi.number(through)?, vec![this]))
}
