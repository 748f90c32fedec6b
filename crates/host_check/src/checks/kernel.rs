//! The host's kernel version.

use super::Context;
use crate::report::Finding;

/// close_range (5.9) is the youngest system call that everything needs.
const NEEDED: (u32, u32) = (5, 9);

/// What Debian 12 ships, the oldest kernel this is tested on.
const TESTED: (u32, u32) = (6, 1);

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "processes are held by pidfd and file descriptors closed by close_range";
    let Ok(release) = context.root.read("/proc/sys/kernel/osrelease") else {
        return Finding::fail("the kernel's release is not readable", why, "mount /proc");
    };
    let release = release.trim();
    let what = format!("Linux {release}");
    match version(release) {
        Some(found) if found >= TESTED => Finding::pass(what, why),
        Some(found) if found >= NEEDED => Finding::warn(
            what,
            format!("it has what is needed, but nothing older than {}.{} is tested", TESTED.0, TESTED.1),
            "update the host's kernel",
        ),
        _ => Finding::fail(what, why, format!("update the host's kernel to {}.{} or later", TESTED.0, TESTED.1)),
    }
}

/// `6.12.1-amd64` -> (6, 12)
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn by_version() {
        let host = FakeHost::new();
        let releases = [("6.1.0-40-amd64", Level::Pass), ("10.0", Level::Pass), ("5.10.2", Level::Warn), ("5.8.9", Level::Fail), ("x", Level::Fail)];
        for (release, level) in releases {
            host.write("/proc/sys/kernel/osrelease", release);
            assert_eq!(on(&host, check).level, level, "{release}");
        }
    }
}
