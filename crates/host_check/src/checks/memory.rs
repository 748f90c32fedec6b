//! Enough free memory for a machine.

use super::Context;
use crate::report::Finding;

/// A machine of the default size with QEMU around it, MiB.
const COMFORTABLE: u64 = 1024;

/// Less than this does not hold QEMU and the smallest machine that boots, MiB.
const NEEDED: u64 = 256;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let (available, total) = (context.facts.memory_available_mib, context.facts.memory_total_mib);
    let what = format!("{available} of {total} MiB are available");
    let why = "each container has its own machine with its own memory";
    match available {
        COMFORTABLE.. => Finding::pass(what, why),
        NEEDED.. => Finding::warn(what, why, "free some memory, or give containers smaller machines"),
        _ => Finding::fail(what, why, format!("free at least {NEEDED} MiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn by_available_memory() {
        let host = FakeHost::new();
        for (kib, level) in [(2_000_000, Level::Pass), (500_000, Level::Warn), (100_000, Level::Fail)] {
            host.write("/proc/meminfo", &format!("MemTotal: 9999999 kB\nMemAvailable: {kib} kB\n"));
            assert_eq!(on(&host, check).level, level, "{kib}");
        }
    }
}
