//! Network namespaces of a test: one for the container, as an engine would make it, and one for its peer. Nothing touches the host's own network.

use crate::bundle::Bundle;
use crate::command::Command;
use crate::sandbox::Sandbox;
use crate::wait::until;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses of the peer on its first link to the container.
pub const PEER: [&str; 2] = ["10.77.0.1", "fd77::1"];

/// Addresses of the container there.
pub const OURS: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// Two network namespaces. They go when this is dropped.
#[derive(Debug)]
pub struct Network {
    container: String,
    peer: String,
}

impl Network {
    /// Two namespaces with nothing in them but loopback.
    ///
    /// # Panics
    /// When `ip` cannot make them.
    pub fn empty(sandbox: &Sandbox) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |what| format!("{}{what}{number}", sandbox.tag());
        let network = Network { container: name("c"), peer: name("p") };
        for namespace in [&network.container, &network.peer] {
            ip(&["netns", "add", namespace]);
            ip(&["-netns", namespace, "link", "set", "lo", "up"]);
        }
        network
    }

    /// The container has `eth0`, with addresses of both families and default routes to its peer.
    ///
    /// # Panics
    /// When `ip` cannot make them.
    pub fn new(sandbox: &Sandbox) -> Self {
        let network = Network::empty(sandbox);
        network.link("eth0", 1500);
        network
    }

    /// Links the container to its peer with the addresses [`OURS`] and [`PEER`].
    ///
    /// # Panics
    /// When `ip` cannot.
    pub fn link(&self, name: &str, mtu: u32) {
        self.pair(name, "peer", mtu);
        for (ours, peer) in [("10.77.0.2/24", "10.77.0.1/24"), ("fd77::2/64", "fd77::1/64")] {
            let nodad = if ours.contains(':') { "nodad" } else { "" };
            self.ip(&format!("address add {ours} dev {name} {nodad}"));
            self.peer_ip(&format!("address add {peer} dev peer {nodad}"));
        }
        self.ip("route add default via 10.77.0.1");
        self.ip("-6 route add default via fd77::1");
    }

    /// Links the container to its peer without addresses but those that the kernel makes, and waits for these.
    ///
    /// # Panics
    /// When `ip` cannot.
    pub fn pair(&self, name: &str, peer: &str, mtu: u32) {
        self.ip(&format!("link add {name} mtu {mtu} type veth peer name {peer} netns {}", self.peer));
        self.peer_ip(&format!("link set {peer} mtu {mtu} up"));
        self.ip(&format!("link set {name} up"));
        until("link-local addresses", || {
            let addresses = [
                self.ip(&format!("address show dev {name}")),
                self.peer_ip(&format!("address show dev {peer}")),
            ];
            addresses.iter().all(|text| text.contains("fe80::") && !text.contains("tentative")).then_some(())
        });
    }

    /// The container's namespace as a file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.container)
    }

    /// The names of both namespaces, which the leak check would find.
    pub fn names(&self) -> [&str; 2] {
        [&self.container, &self.peer]
    }

    /// Gives a bundle the container's namespace.
    pub fn join<'a>(&self, bundle: &'a Bundle) -> &'a Bundle {
        bundle.change(|spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
            let network = namespaces.iter_mut().find(|namespace| namespace["type"] == "network");
            network.expect("a network namespace")["path"] = self.path().to_string_lossy().as_ref().into();
        })
    }

    /// `ip` in the container's namespace.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        ip(&[["-netns", &self.container].as_slice(), &words.split_whitespace().collect::<Vec<_>>()].concat())
    }

    /// `ip` in the peer's namespace.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn peer_ip(&self, words: &str) -> String {
        ip(&[["-netns", &self.peer].as_slice(), &words.split_whitespace().collect::<Vec<_>>()].concat())
    }

    /// A shell script in the container's namespace on the host.
    pub fn here(&self, script: &str) -> Command {
        Command::new("ip").args(["netns", "exec", &self.container, "sh", "-c", script])
    }

    /// A shell script in the peer's namespace.
    pub fn peer(&self, script: &str) -> Command {
        Command::new("ip").args(["netns", "exec", &self.peer, "sh", "-c", script])
    }

    /// A command for which the container's namespace is the host's network.
    pub fn as_host(&self, command: Command) -> Command {
        command.under(&["nsenter", &format!("--net={}", self.path().display())])
    }

    /// Opens sockets in one of the namespaces, where they stay: the peer's, or that which is [`Network::as_host`]'s.
    ///
    /// # Panics
    /// When it cannot be joined.
    pub fn open<T: Send>(&self, peer: bool, open: impl FnOnce() -> T + Send) -> T {
        let name = if peer { &self.peer } else { &self.container };
        let namespace = std::fs::File::open(format!("/run/netns/{name}")).expect("opening a namespace");
        // Which one a thread is in is the thread's own matter.
        let work = || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).expect("joining a namespace");
            open()
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("a thread that ends"))
    }

    /// All that `ip` and `tc` know of the container's namespace.
    pub fn everything(&self) -> String {
        let script = "ip -details link; ip address; ip route show table all; ip -6 route show table all; \
            ip neighbour; tc qdisc show; for i in $(ls /sys/class/net); do tc filter show dev $i ingress; done";
        self.here(script).ok()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.container, &self.peer] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).run();
        }
    }
}

#[track_caller]
fn ip(words: &[&str]) -> String {
    Command::new("ip").args(words).ok()
}

/// Does what a VMM can that a guest has taken over: its taps stay when it ends (TUNSETPERSIST). Says how many there were.
///
/// # Panics
/// When its descriptors cannot be reached.
#[expect(unsafe_code, reason = "ioctl of the tap driver")]
pub fn make_taps_stay(vmm: u32) -> usize {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let pid = Pid::from_raw(vmm as i32).expect("a pid");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("opening a process");
    let mut taps = 0;
    for entry in std::fs::read_dir(format!("/proc/{vmm}/fd")).expect("listing descriptors").flatten() {
        let number = entry.file_name().to_string_lossy().parse().expect("a number");
        if std::fs::read_link(entry.path()).is_ok_and(|path| path.ends_with("net/tun")) {
            let tap = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).expect("copying a descriptor");
            // SAFETY: TUNSETPERSIST takes its argument by value.
            let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) };
            assert_eq!(result, 0, "TUNSETPERSIST: {}", std::io::Error::last_os_error());
            taps += 1;
        }
    }
    taps
}
