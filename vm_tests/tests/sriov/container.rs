//! A container whose network namespace has a virtual function.

use crate::adapter::{Adapter, HOST, OURS, ip};
use vm_tests::{Container, Network, Sandbox, full_capabilities, on_kvm, send_signal, until};

/// Memory of a machine, which is pinned: that takes its time under emulation.
const MEMORY: &str = "default_memory_mib = 192";

/// A namespace whose `eth0` is the adapter's virtual function, and what that was like.
struct Namespace {
    network: Network,
    mac: String,
}

impl Namespace {
    fn new(sandbox: &Sandbox, adapter: &Adapter) -> Self {
        let network = Network::empty(sandbox);
        let interface = adapter.function_interface().expect("an interface");
        let path = network.path();
        ip(&format!("link set {interface} netns {} name eth0", path.file_name().unwrap().to_str().unwrap()));
        network.ip(&format!("address add {OURS}/24 dev eth0"));
        network.ip("link set eth0 mtu 1400 up");
        let mac = network.here("cat /sys/class/net/eth0/address").ok();
        Namespace { network, mac }
    }

    fn sleeping<'a>(&self, sandbox: &'a Sandbox) -> Container<'a> {
        let bundle = sandbox.bundle();
        // For ping(8).
        bundle.change(full_capabilities);
        sandbox.start(self.network.join(&bundle))
    }

    /// The container drives the function.
    fn assert_lent(&self, container: &Container, adapter: &Adapter) {
        assert_eq!(adapter.driver(), "vfio-pci");
        assert!(!self.network.ip("link").contains("eth0"), "{}", self.network.everything());
        assert_eq!(container.sh("cat /sys/class/net/eth0/address"), self.mac);
        assert_eq!(container.sh("cat /sys/class/net/eth0/mtu"), "1400");
        assert!(container.sh("ip address show dev eth0").contains(OURS));
        container.sh(&format!("until ping -c 1 -W 1 {HOST} > /dev/null; do :; done"));
        // More than one packet fits in a ring, both ways.
        container.sh(&format!("ping -c 300 -i 0.002 -s 1300 -W 5 {HOST} | grep -q ' 0% packet loss'"));
    }

    /// The namespace has the interface again, as it was.
    fn assert_back(&self, adapter: &Adapter) {
        assert_eq!(adapter.driver(), "igbvf");
        let choice = std::fs::read_to_string(adapter.function().join("driver_override")).unwrap();
        assert_eq!(choice, "(null)\n");
        assert_eq!(self.network.here("cat /sys/class/net/eth0/address").ok(), self.mac);
        assert_eq!(self.network.here("cat /sys/class/net/eth0/mtu").ok(), "1400");
    }
}

fn on_each_backend(test: impl Fn(&Sandbox, &Adapter)) {
    for machine in ["backend = \"clear-vmm\"", "backend = \"qemu\"\nchassis = \"q35\""] {
        let Some(sandbox) = on_kvm() else { return };
        let Some(adapter) = Adapter::new() else { return };
        sandbox.configure_more(&format!("[machine]\n{MEMORY}\n{machine}\n"));
        test(&sandbox, &adapter);
        // With the namespace the interface has gone to the first one.
        drop(adapter);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_virtual_function_is_the_containers_and_the_namespaces_again() {
    on_each_backend(|sandbox, adapter| {
        let namespace = Namespace::new(sandbox, adapter);
        let container = namespace.sleeping(sandbox);
        namespace.assert_lent(&container, adapter);
        container.command(&["kill"]).arg("KILL").run().expect(0);
        until("the container to stop", || (container.status() == "stopped").then_some(()));
        // Before `delete`: engines take the network down first.
        namespace.assert_back(adapter);
        container.delete();
        namespace.assert_back(adapter);
    });
}

#[test]
fn kill_9_of_the_keeper_does_not_keep_it() {
    on_each_backend(|sandbox, adapter| {
        let namespace = Namespace::new(sandbox, adapter);
        let container = namespace.sleeping(sandbox);
        let pid = container.pid();
        send_signal(pid, libc::SIGKILL);
        assert_eq!(Container::reap(pid), 137);
        assert_eq!(adapter.driver(), "vfio-pci");
        container.delete();
        namespace.assert_back(adapter);
    });
}

#[test]
fn its_packets_are_redirected_where_that_is_asked_for() {
    let Some(sandbox) = on_kvm() else { return };
    let Some(adapter) = Adapter::new() else { return };
    sandbox.configure_more("[network]\npassthrough = \"none\"\n");
    let namespace = Namespace::new(&sandbox, &adapter);
    let container = namespace.sleeping(&sandbox);
    assert_eq!(adapter.driver(), "igbvf");
    assert_eq!(container.sh("cat /sys/class/net/eth0/address"), namespace.mac);
    container.command(&["delete", "--force"]).run().expect(0);
    namespace.assert_back(&adapter);
}
