//! TUN/TAP, by which a machine is joined to the container's network.

use super::Context;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "a machine's network card is a tap device in the container's network namespace";
    if context.root.exists("/dev/net/tun") {
        return Finding::pass("/dev/net/tun is there", why);
    }
    Finding::warn("/dev/net/tun does not exist: containers have no network", why, "modprobe tun")
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
        host.remove("/dev/net/tun");
        assert_eq!(on(&host, check).level, Level::Warn);
    }
}
