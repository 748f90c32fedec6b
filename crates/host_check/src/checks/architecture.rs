//! The CPU architecture: the machine, its kernel and the agent are built for x86-64.

use super::Context;
use crate::report::Finding;

const SUPPORTED: &str = "x86_64";

pub(super) fn check(context: &Context<'_>) -> Finding {
    let arch = context.root.arch();
    let why = "machine, kernel and agent are built for 64-bit x86";
    if arch == SUPPORTED {
        return Finding::pass(arch, why);
    }
    Finding::fail(format!("{arch} is not supported"), why, format!("use an {SUPPORTED} host"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, fake_host::FakeHost};
    use std::path::Path;

    #[test]
    fn only_x86_64() {
        let host = FakeHost::new();
        assert_eq!(super::super::on(&host, check).level, Level::Pass);
        let (root, facts) = (host.root().with_arch("riscv64"), host.facts());
        let finding = check(&Context { root: &root, facts: &facts, mini_os: Path::new("/x") });
        assert_eq!(finding.level, Level::Fail);
    }
}
