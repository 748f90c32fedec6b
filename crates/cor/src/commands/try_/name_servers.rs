//! Which name servers a machine asks that has a user-space network: those that this host asks, as far as the machine can reach them.

use crate::log::Log;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

/// What programs of this host read, then what systemd-resolved writes of the servers behind its own at 127.0.0.53.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Most servers that programs read (MAXNS of resolv.conf(5)).
const MOST: usize = 3;

/// The machine's `resolv.conf`: with the servers that were `given`, else this host's. Warns when there are none.
pub(super) fn resolv_conf(given: &[IpAddr], log: &Log) -> String {
    let texts = FILES.map(|path| fs::read_to_string(path).unwrap_or_default());
    let made = make(given, &texts);
    if !made.contains("nameserver") {
        log.warn(
            "names cannot be looked up: /etc/resolv.conf names no server but on this host's loopback, which the machine cannot reach; name one: --dns ADDRESS",
        );
    }
    made
}

fn make(given: &[IpAddr], texts: &[String]) -> String {
    let reachable = |text: &String| -> Vec<String> {
        text.lines()
            .filter_map(|line| value(line, "nameserver"))
            .filter(|server| !is_local(server))
            .map(String::from)
            .collect()
    };
    let servers = match given {
        [] => texts.iter().map(reachable).find(|servers| !servers.is_empty()).unwrap_or_default(),
        given => given.iter().map(IpAddr::to_string).collect(),
    };
    let mut made = String::new();
    for server in servers.iter().take(MOST) {
        let _ = writeln!(made, "nameserver {server}");
    }
    for line in texts.first().map(|text| text.lines()).into_iter().flatten() {
        if ["search", "domain", "options"].iter().any(|key| value(line, key).is_some()) {
            let _ = writeln!(made, "{}", line.trim());
        }
    }
    made
}

/// What stands behind a key.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.trim().strip_prefix(key)?;
    rest.starts_with([' ', '\t']).then(|| rest.split_whitespace().next()).flatten()
}

/// Whether an address is of this host's loopback, or none that the machine has a way to: one of a link says on which.
fn is_local(server: &str) -> bool {
    let address = server.parse::<IpAddr>();
    address.map_or(true, |address| address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::make;

    fn made(given: &[&str], texts: [&str; 2]) -> String {
        let given: Vec<_> = given.iter().map(|address| address.parse().unwrap()).collect();
        make(&given, &texts.map(String::from))
    }

    #[test]
    fn servers_are_the_hosts_that_can_be_reached() {
        let host = "# x\nnameserver 127.0.0.1\n nameserver\t192.0.2.1 \nnameserver fe80::1%eth0\nnameserver ::1\nsearch a b\noptions edns0\nsortlist c\n";
        assert_eq!(made(&[], [host, ""]), "nameserver 192.0.2.1\nsearch a b\noptions edns0\n");
        let stub = "nameserver 127.0.0.53\nsearch a\n";
        assert_eq!(made(&[], [stub, "nameserver 192.0.2.7\nsearch b\n"]), "nameserver 192.0.2.7\nsearch a\n");
        assert_eq!(made(&[], [stub, ""]), "search a\n");
        let many = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        assert_eq!(made(&[], [many, ""]).lines().count(), 3);
    }

    #[test]
    fn servers_that_are_given_take_their_place() {
        let host = "nameserver 192.0.2.1\nsearch a\n";
        assert_eq!(
            made(&["192.0.2.9", "2001:db8::1"], [host, ""]),
            "nameserver 192.0.2.9\nnameserver 2001:db8::1\nsearch a\n"
        );
    }
}
