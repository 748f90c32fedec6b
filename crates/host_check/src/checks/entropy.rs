//! The random number generator, which seeds every machine.

use super::Context;
use crate::report::Finding;

/// Bits: since 5.18 the pool is either full at 256 or still filling.
const FULL: u64 = 256;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "each machine is seeded from the host's generator, and one that is not ready makes it wait";
    match context.root.number("/proc/sys/kernel/random/entropy_avail") {
        Some(bits @ FULL..) => Finding::pass(format!("{bits} bits"), why),
        Some(bits) => Finding::warn(
            format!("only {bits} bits"),
            why,
            "wait, or give this host a hardware generator (a virtual machine: virtio-rng)",
        ),
        None => Finding::warn("the generator's state is not readable", why, "mount /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn full_filling_unknown() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/proc/sys/kernel/random/entropy_avail", "17\n");
        assert_eq!(on(&host, check).what, "only 17 bits");
        host.remove("/proc/sys/kernel/random/entropy_avail");
        assert_eq!(on(&host, check).level, Level::Warn);
    }
}
