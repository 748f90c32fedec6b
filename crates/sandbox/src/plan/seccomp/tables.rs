//! Architectures, and system calls by name.

use oci_spec::runtime::Arch;
use syscalls::{aarch64, arm, x86, x86_64};

/// What x32 numbers have above those of x86-64 (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// One set of system call numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
}

/// x32 calls with numbers of their own (`arch/x86/entry/syscalls/syscall_64.tbl`, from 512 on, in order).
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

impl Abi {
    /// What a kernel of this GNU architecture name runs by itself.
    pub fn native(arch: &str) -> Option<Abi> {
        match arch {
            "x86_64" => Some(Abi::X86_64),
            "aarch64" => Some(Abi::Aarch64),
            _ => None,
        }
    }

    /// The set that a policy names; `None` for those that no guest of ours can run.
    pub fn of(arch: Arch, native: Abi) -> Option<Abi> {
        Some(match arch {
            Arch::ScmpArchNative => native,
            Arch::ScmpArchX86_64 => Abi::X86_64,
            Arch::ScmpArchX32 => Abi::X32,
            Arch::ScmpArchX86 => Abi::X86,
            Arch::ScmpArchAarch64 => Abi::Aarch64,
            Arch::ScmpArchArm => Abi::Arm,
            _ => return None,
        })
    }

    /// `AUDIT_ARCH_*` of `include/uapi/linux/audit.h`. x32 shares that of x86-64.
    pub fn audit(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 32 bits; the upper half of each is then not looked at.
    pub fn narrow(self) -> bool {
        matches!(self, Abi::X86 | Abi::Arm)
    }

    /// The number of a system call.
    pub fn number(self, name: &str) -> Option<u32> {
        let id = match self {
            Abi::X86_64 => name.parse::<x86_64::Sysno>().ok()?.id(),
            Abi::X86 => name.parse::<x86::Sysno>().ok()?.id(),
            Abi::Aarch64 => name.parse::<aarch64::Sysno>().ok()?.id(),
            Abi::Arm => name.parse::<arm::Sysno>().ok()?.id(),
            Abi::X32 => {
                let own = X32_OWN.iter().position(|known| *known == name).map(|at| 512 + at as u32);
                return Some(X32_BIT | own.or_else(|| Abi::X86_64.number(name))?);
            }
        };
        u32::try_from(id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let numbers = [
            (Abi::X86_64, "read", Some(0)),
            (Abi::X86_64, "clone3", Some(435)),
            (Abi::X86, "clone3", Some(435)),
            (Abi::X86, "socketcall", Some(102)),
            (Abi::X86_64, "socketcall", None),
            (Abi::Aarch64, "read", Some(63)),
            (Abi::Arm, "read", Some(3)),
            (Abi::X32, "read", Some(X32_BIT)),
            (Abi::X32, "execve", Some(X32_BIT + 520)),
            (Abi::X32, "pwritev2", Some(X32_BIT + 547)),
            (Abi::X86_64, "no_such_call", None),
        ];
        for (abi, name, number) in numbers {
            assert_eq!(abi.number(name), number, "{abi:?} {name}");
        }
    }
}
