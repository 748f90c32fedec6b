//! pasta, which gives containers that are tried a network.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "pasta gives `cor try`, and containers with network.user, a network of their own without anything set up on the host";
    match &context.facts.pasta {
        Some(path) => Finding::pass(format!("pasta ({})", path.display()), why),
        None => Finding::warn("pasta is not in the search path", why, install_line(context)),
    }
}

fn install_line(context: &Context<'_>) -> &'static str {
    let release = context.root.read("/etc/os-release").unwrap_or_default();
    let is = |line: &str| release.lines().any(|candidate| candidate.replace('"', "") == line);
    if is("ID=debian") || is("ID_LIKE=debian") || is("ID=ubuntu") {
        return "apt-get install passt";
    }
    "install the package passt with your distribution's package manager"
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn there_or_not() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.remove("/usr/bin/pasta");
        let finding = on(&host, check);
        assert_eq!((finding.level, finding.fix.as_deref()), (Level::Warn, Some("apt-get install passt")));
        host.write("/etc/os-release", "ID=fedora\n");
        assert!(on(&host, check).fix.unwrap().contains("package manager"));
    }
}
