//! userfaultfd: memory filled on first touch, which restoring a machine uses.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "a snapshot's memory can then be loaded while its machine already runs";
    // The device came with 6.1; the switch belongs to the older system call.
    let places = ["/dev/userfaultfd", "/proc/sys/vm/unprivileged_userfaultfd"];
    match places.into_iter().find(|path| context.root.exists(path)) {
        Some(path) => Finding::pass(format!("available ({path})"), why),
        None => Finding::warn("the kernel has no userfaultfd", why, "use a kernel with CONFIG_USERFAULTFD=y"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn device_switch_or_none() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.remove("/dev/userfaultfd");
        assert_eq!(on(&host, check).level, Level::Warn);
        host.write("/proc/sys/vm/unprivileged_userfaultfd", "0\n");
        assert_eq!(on(&host, check).level, Level::Pass);
    }
}
