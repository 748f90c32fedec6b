//! Root: mounts, control groups, network namespaces and the state directory need it.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "setting up mounts, control groups and networks for a container takes root's capabilities";
    // Uid: real, effective, saved, file system.
    let ids = context.root.field("/proc/self/status", "Uid:").unwrap_or_default();
    match ids.split_whitespace().nth(1) {
        Some("0") => Finding::pass("running as root", why),
        Some(id) => Finding::fail(format!("running as user {id}"), why, "run the command as root (sudo)"),
        None => Finding::fail("the user of this process is not known", why, "mount /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn the_effective_user_counts() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/proc/self/status", "Uid:\t0\t1000\t0\t0\n");
        let finding = on(&host, check);
        assert_eq!((finding.level, finding.what.as_str()), (Level::Fail, "running as user 1000"));
    }
}
