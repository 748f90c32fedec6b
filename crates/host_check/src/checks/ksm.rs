//! Kernel samepage merging: equal pages of different machines kept once.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "machines of one trust domain may share equal pages; off by default, since sharing is a side channel";
    match context.root.number("/sys/kernel/mm/ksm/run") {
        Some(1) => Finding::pass("available, and merging now", why),
        Some(_) => Finding::pass("available, not merging", why),
        None => Finding::warn("the kernel has no KSM", why, "use a kernel with CONFIG_KSM=y"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn running_idle_absent() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).what, "available, not merging");
        host.write("/sys/kernel/mm/ksm/run", "1\n");
        assert_eq!(on(&host, check).what, "available, and merging now");
        host.remove("/sys/kernel/mm/ksm");
        assert_eq!(on(&host, check).level, Level::Warn);
    }
}
