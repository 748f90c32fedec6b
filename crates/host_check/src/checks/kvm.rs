//! Hardware virtualization: the device and the verdict of the probe guest.

use super::Context;
use crate::facts::Kvm;
use crate::kvm_probe::{self, ProbeError};
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let Kvm::Unusable(reason) = &context.facts.kvm else {
        return Finding::pass("/dev/kvm runs guests (shown by running one)", "containers run on the processor itself");
    };
    let fix = match kvm_probe::open(&context.root.path("/dev/kvm")) {
        Err(ProbeError::Missing) => "see `nested`; then load the module: modprobe kvm_intel or modprobe kvm_amd",
        Err(ProbeError::Permission) => "run as root or as a member of the group that owns /dev/kvm",
        _ => "use a host whose processor virtualization KVM can reach (bare metal, or a VM with nested virtualization)",
    };
    Finding::warn(reason, "containers run by emulation instead: right, but ten times slower or more", fix)
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn emulation_is_a_warning() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.forget_probe();
        let finding = on(&host, check);
        assert_eq!(finding.level, Level::Warn);
        assert!(finding.what.contains("not the KVM device"), "{finding:?}");
        host.remove("/dev/kvm");
        let finding = on(&host, check);
        assert!(finding.what.contains("does not exist") && finding.fix.unwrap().contains("modprobe"));
    }
}
