//! What a host needs, one file per check. To add one: its file, and its name in the registry below.
//!
//! A check gives [`Level::Fail`](crate::Level::Fail) only for what stops containers even by emulation, warns of what makes
//! them slower or takes something away, and says the fix for both. A check reads; it never changes the host.

use crate::facts::HostFacts;
use crate::report::{Finding, Report};
use crate::root::Root;
use std::path::Path;

/// What a check looks at.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where to read the host.
    pub root: &'a Root,
    /// What [`crate::survey`] found there.
    pub facts: &'a HostFacts,
    /// Manifest of the mini-OS that containers would boot, as an absolute path of that host.
    pub mini_os: &'a Path,
}

/// Declares the modules and the table of checks, in the order of the report.
macro_rules! registry {
    ($($check:ident)*) => {
        $(mod $check;)*
        const REGISTRY: &[(&str, fn(&Context<'_>) -> Finding)] = &[$((stringify!($check), $check::check)),*];
    };
}

registry! {
    architecture root_user kernel kvm nested nested_paging qemu mini_os cgroups memory run_directory tun pasta file_systems
    vhost ksm huge_pages userfaultfd limits entropy seccomp
}

/// Runs every check.
#[must_use]
pub fn check(context: &Context<'_>) -> Report {
    let run = |(name, check): &(&str, fn(&Context<'_>) -> Finding)| Finding {
        name: name.replace('_', "-"),
        ..check(context)
    };
    Report::new(REGISTRY.iter().map(run).collect())
}

/// The two lines most unit tests of a check begin with.
#[cfg(test)]
fn on(host: &crate::fake_host::FakeHost, check: fn(&Context<'_>) -> Finding) -> Finding {
    let mini_os = Path::new("/var/lib/clear-containers/mini-os/refs/default/manifest.json");
    check(&Context { root: &host.root(), facts: &host.facts(), mini_os })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use crate::fake_host::FakeHost;

    fn report(root: &Root) -> Report {
        let facts = crate::survey(root);
        check(&Context {
            root,
            facts: &facts,
            mini_os: Path::new("/var/lib/clear-containers/mini-os/refs/default/manifest.json"),
        })
    }

    #[test]
    fn a_good_host_passes_everything() {
        let host = FakeHost::new();
        let report = report(&host.root());
        let bad: Vec<_> = report.findings.iter().filter(|finding| finding.level != Level::Pass).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(report.findings.len(), REGISTRY.len());
    }

    #[test]
    fn an_empty_host_fails_and_each_complaint_has_a_fix() {
        let empty = tempfile::tempdir().unwrap();
        let report = report(&Root::at(empty.path()));
        assert_eq!(report.level, Level::Fail);
        for finding in &report.findings {
            assert_eq!(finding.fix.is_some(), finding.level != Level::Pass, "{finding:?}");
            assert!(!finding.what.is_empty() && !finding.why.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn this_host_is_checked_without_a_crash() {
        let report = report(&Root::host().without_probe_record());
        assert_eq!(report.findings.len(), REGISTRY.len());
    }
}
