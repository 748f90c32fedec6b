//! Second-level page tables (Intel EPT, AMD NPT).

use super::Context;
use crate::report::Finding;

/// What KVM's modules say about themselves.
const PARAMETERS: [(&str, &str, &str); 2] = [
    ("kvm_intel", "/sys/module/kvm_intel/parameters/ept", "EPT"),
    ("kvm_amd", "/sys/module/kvm_amd/parameters/npt", "NPT"),
];

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "without the processor's second-level page tables each page fault of a guest costs the host too";
    for (module, path, name) in PARAMETERS {
        let Ok(value) = context.root.read(path) else { continue };
        if matches!(value.trim(), "Y" | "1") {
            return Finding::pass(format!("{name} is in use"), why);
        }
        let option = name.to_ascii_lowercase();
        return Finding::warn(format!("{name} is off"), why, format!("load {module} with {option}=1, or use a processor that has {name}"));
    }
    Finding::warn("neither kvm_intel nor kvm_amd is loaded", why, "see `kvm`")
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn on_off_and_absent() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/sys/module/kvm_intel/parameters/ept", "N\n");
        assert!(on(&host, check).fix.unwrap().contains("ept=1"));
        host.remove("/sys/module/kvm_intel");
        assert_eq!(on(&host, check).level, Level::Warn);
        host.write("/sys/module/kvm_amd/parameters/npt", "1\n");
        assert!(on(&host, check).what.contains("NPT"));
    }
}
