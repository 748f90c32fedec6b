//! Capabilities by name to the bits of the kernel.

use guest_protocol::message::Capabilities;
use oci_spec::runtime::{Capabilities as Names, Capability, LinuxCapabilities};

/// Five sets as bits. A set that is missing is empty.
pub(super) fn sets(given: &LinuxCapabilities) -> Capabilities {
    Capabilities {
        bounding: bits(given.bounding()),
        effective: bits(given.effective()),
        inheritable: bits(given.inheritable()),
        permitted: bits(given.permitted()),
        ambient: bits(given.ambient()),
    }
}

/// Every capability that is known by name, in the kernel's order; for `cor features`.
pub fn known_capabilities() -> Vec<String> {
    ALL.iter().map(|capability| format!("CAP_{capability}")).collect()
}

fn bits(names: &Option<Names>) -> u64 {
    names.iter().flatten().fold(0, |bits, name| bits | 1 << number(*name))
}

/// In the order of `include/uapi/linux/capability.h`: the place is the number.
const ALL: [Capability; 41] = {
    use Capability::*;
    [
        Chown,
        DacOverride,
        DacReadSearch,
        Fowner,
        Fsetid,
        Kill,
        Setgid,
        Setuid,
        Setpcap,
        LinuxImmutable,
        NetBindService,
        NetBroadcast,
        NetAdmin,
        NetRaw,
        IpcLock,
        IpcOwner,
        SysModule,
        SysRawio,
        SysChroot,
        SysPtrace,
        SysPacct,
        SysAdmin,
        SysBoot,
        SysNice,
        SysResource,
        SysTime,
        SysTtyConfig,
        Mknod,
        Lease,
        AuditWrite,
        AuditControl,
        Setfcap,
        MacOverride,
        MacAdmin,
        Syslog,
        WakeAlarm,
        BlockSuspend,
        AuditRead,
        Perfmon,
        Bpf,
        CheckpointRestore,
    ]
};

fn number(capability: Capability) -> usize {
    ALL.iter().position(|known| *known == capability).unwrap_or(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let numbers = [
            (Capability::Chown, 0),
            (Capability::Kill, 5),
            (Capability::NetBindService, 10),
            (Capability::SysAdmin, 21),
            (Capability::AuditWrite, 29),
            (Capability::AuditRead, 37),
            (Capability::CheckpointRestore, 40),
        ];
        for (capability, expected) in numbers {
            assert_eq!(number(capability), expected, "{capability:?}");
        }
    }

    #[test]
    fn every_name_has_a_number() {
        for name in known_capabilities() {
            let one: Names = serde_json::from_value(serde_json::json!([name])).unwrap();
            assert!(bits(&Some(one)).trailing_zeros() <= 40);
        }
    }
}
