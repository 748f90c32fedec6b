//! The mini-OS that containers boot.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let manifest = context.mini_os.display();
    let why = "every container boots the kernel and the agent of a mini-OS";
    if context.root.path(context.mini_os).is_file() {
        return Finding::pass(format!("built: {manifest}"), why);
    }
    let fix = "clear-mini-os build --kernel debian (quick), or --kernel source (starts faster)";
    Finding::fail(format!("not built: {manifest} does not exist"), why, fix)
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn built_or_not() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.remove("/var/lib/clear-containers/mini-os/refs/default/manifest.json");
        assert_eq!(on(&host, check).level, Level::Fail);
    }
}
