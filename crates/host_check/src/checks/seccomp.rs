//! seccomp of the host's kernel, which jails the machine's process.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "the process that runs a machine gives up the system calls it does not need";
    let actions = context.root.read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "kill_process") {
        return Finding::pass("filters can be set", why);
    }
    Finding::warn("the kernel has no seccomp filters", why, "use a kernel with CONFIG_SECCOMP_FILTER=y")
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
        host.write("/proc/sys/kernel/seccomp/actions_avail", "trap errno\n");
        assert_eq!(on(&host, check).level, Level::Warn);
    }
}
