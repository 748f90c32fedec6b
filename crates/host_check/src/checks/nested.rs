//! Whether the processor shows its virtualization to this system, and whether that is a virtual machine itself.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let flags = context.root.field("/proc/cpuinfo", "flags").unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let why = "KVM needs the processor's VMX (Intel) or SVM (AMD)";
    let inside = if has("hypervisor") { "; this host is a virtual machine itself" } else { "" };
    for (flag, name) in [("vmx", "Intel VMX"), ("svm", "AMD SVM")] {
        if has(flag) {
            return Finding::pass(format!("{name} is there{inside}"), why);
        }
    }
    let fix = if inside.is_empty() {
        "enable virtualization (VT-x, AMD-V) in the firmware's settings"
    } else {
        "enable nested virtualization for this virtual machine, or use bare metal"
    };
    Finding::warn(format!("no vmx or svm flag{inside}"), why, fix)
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn the_fix_depends_on_where_we_are() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/proc/cpuinfo", "flags\t\t: fpu svm hypervisor\n");
        let finding = on(&host, check);
        assert!(finding.level == Level::Pass && finding.what.contains("virtual machine itself"));
        host.write("/proc/cpuinfo", "flags\t\t: fpu hypervisor\n");
        assert!(on(&host, check).fix.unwrap().contains("nested"));
        host.write("/proc/cpuinfo", "flags\t\t: fpu svm_lock\n");
        let finding = on(&host, check);
        assert_eq!(finding.level, Level::Warn);
        assert!(finding.fix.unwrap().contains("firmware"));
    }
}
