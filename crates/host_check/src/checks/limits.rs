//! Limits of this process that machines inherit.

use super::Context;
use crate::report::Finding;

/// A 9p share keeps a descriptor for each file that the container has open.
const OPEN_FILES: u64 = 4096;

/// io_uring and queues of devices need some locked memory, bytes.
const LOCKED_MEMORY: u64 = 8 << 20;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "QEMU holds a descriptor for each file a container has open, and locks memory for its queues";
    let text = context.root.read("/proc/self/limits").unwrap_or_default();
    let (files, locked) = (soft(&text, "Max open files"), soft(&text, "Max locked memory"));
    let (Some(files), Some(locked)) = (files, locked) else {
        return Finding::warn("the limits of this process are not known", why, "mount /proc");
    };
    if files < OPEN_FILES {
        return Finding::warn(format!("at most {files} open files"), why, format!("ulimit -n {OPEN_FILES} or more"));
    }
    if locked < LOCKED_MEMORY {
        let fix = format!("ulimit -l {} or more", LOCKED_MEMORY / 1024);
        return Finding::warn(format!("at most {} KiB of locked memory", locked / 1024), why, fix);
    }
    Finding::pass(format!("{} open files, {} KiB of locked memory", plain(files, 1), plain(locked, 1024)), why)
}

/// The soft limit, which stands behind the name; `unlimited` is the largest number.
fn soft(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn plain(limit: u64, unit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { (limit / unit).to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn files_and_locked_memory() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).what, "524288 open files, unlimited KiB of locked memory");
        for (files, locked, level) in [(1024, 8388608, Level::Warn), (20000, 65536, Level::Warn), (20000, 8388608, Level::Pass)] {
            let text = format!("Max open files   {files}  {files} files\nMax locked memory  {locked} {locked} bytes\n");
            host.write("/proc/self/limits", &text);
            assert_eq!(on(&host, check).level, level, "{files} {locked}");
        }
    }
}
