//! vhost: information only, nothing needs it.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let devices = ["/dev/vhost-net", "/dev/vhost-vsock"];
    let found: Vec<_> = devices.into_iter().filter(|path| context.root.exists(path)).collect();
    let what = if found.is_empty() { "no vhost device".to_owned() } else { found.join(" and ") };
    Finding::pass(what, "not needed: network and agent channel are served inside the machine's own process")
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn says_what_is_there_and_never_complains() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).what, "/dev/vhost-net and /dev/vhost-vsock");
        host.remove("/dev/vhost-net");
        host.remove("/dev/vhost-vsock");
        let finding = on(&host, check);
        assert_eq!((finding.level, finding.what.as_str()), (Level::Pass, "no vhost device"));
    }
}
