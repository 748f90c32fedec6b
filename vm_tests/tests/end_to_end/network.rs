//! The interfaces of the container's network namespace are those of its machine. What holds for every `network.model` is a function, which is
//! called here for the default one.

use serde_json::json;
use std::fs;
use vm_tests::{
    Bundle, Command, Container, Network, OURS, PEER, Sandbox, make_taps_stay, send_signal, until,
};

/// Bytes of the streams.
const STREAM: usize = 64 << 20;

/// Opens descriptor 3 that never ends: `nc` ends when its input does.
const ENDLESS: &str = "f=$(mktemp -u); mkfifo $f; exec 3<>$f; rm $f;";

/// What can be said about the network in the words of busybox, without what no guest can have: the order of routes, and flags that say how
/// an address came to be.
const DESCRIBE: &str = "for i in $(busybox ls /sys/class/net | busybox grep -v ^clear); do busybox ip address show $i | \
    busybox sed 's/ flags 02//; s/ qdisc.*//; s/^[0-9]*: //; s/@[^:]*//; s/link-netns.*//; s/secondary //; s/noprefixroute //' | busybox grep -v valid_lft; \
    busybox ip neigh show dev $i | busybox sed -n 's/ used.*PERMANENT/ PERMANENT/p'; done; \
    busybox ip route | busybox sort; busybox ip -6 route | busybox grep -v multicast | busybox sort";

/// Containers of it have their interfaces by `model`.
pub(super) fn with_model(model: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.configure_more(&format!("[network]\nmodel = {model:?}\n"));
    sandbox
}

pub(super) fn sleeping<'a>(sandbox: &'a Sandbox, network: &Network) -> Container<'a> {
    let bundle = sandbox.bundle();
    sandbox.start(network.join(&bundle))
}

pub(super) fn interfaces(container: &Container<'_>) -> String {
    container.sh("ls /sys/class/net")
}

#[test]
fn the_guest_has_names_addresses_routes_and_neighbours_of_the_namespace() {
    guest_has_what_the_namespace_has("tc");
}

pub(super) fn guest_has_what_the_namespace_has(model: &str) {
    let sandbox = with_model(model);
    let network = Network::new(&sandbox);
    network.ip("link set eth0 address 02:77:00:00:00:05");
    network.ip("address add 10.77.0.9/24 dev eth0");
    network.ip("route add 10.80.0.0/16 via 10.77.0.1 metric 50 mtu 1300");
    network.ip("-6 route add fd80::/48 via fd77::1 metric 77");
    // A second one as the CNI plugin `ptp` makes it: everything goes through a gateway that is in no network.
    network.pair("net1", "peer1", 1400);
    network.ip("address add 10.78.0.2/24 dev net1");
    network.ip("route delete 10.78.0.0/24 dev net1");
    network.ip("route add 10.78.0.1 dev net1 scope link");
    network.ip("route add 10.78.0.0/24 via 10.78.0.1 src 10.78.0.2");
    network.ip("route add 10.79.0.0/24 via 169.254.1.1 dev net1 onlink");
    // Several ways to one network, as with two networks of one engine.
    network.ip("route append default via 10.77.0.7");
    network.ip("route append default via 10.78.0.1 dev net1");
    network.ip("-6 route add fd90::/48 nexthop via fd77::1 dev eth0 nexthop via fe80::1 dev net1");
    network.ip("neighbour add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev net1 nud permanent");
    let container = sleeping(&sandbox, &network);
    // The guest's kernel takes up to a second to say that it has a carrier.
    let guest = until("a carrier", || {
        let text = container.sh(DESCRIBE);
        (!text.contains("NO-CARRIER")).then_some(text)
    });
    assert_eq!(guest, network.here(DESCRIBE).ok());
    for words in ["eth0", "mtu 1500", "02:77:00:00:00:05", "10.77.0.9/24", "fd77::2/64", "net1", "mtu 1400"] {
        assert!(guest.contains(words), "{words} in {guest}");
    }
    assert!(
        guest.contains("10.78.0.0/24 via 10.78.0.1") && guest.contains("ee:ee:ee:ee:ee:ee PERMANENT"),
        "{guest}"
    );
}

#[test]
fn pings_and_streams_pass_both_ways() {
    pings_and_streams_pass("tc", STREAM);
}

/// Streams of so many `bytes`.
pub(super) fn pings_and_streams_pass(model: &str, bytes: usize) {
    let sandbox = with_model(model);
    let network = Network::new(&sandbox);
    let container = sleeping(&sandbox, &network);
    for (ours, peer) in OURS.iter().zip(PEER) {
        container.sh(&format!("ping -c 2 -W 20 {peer}"));
        network.peer(&format!("busybox ping -c 2 -W 20 {ours}")).ok();
    }
    let content: Vec<u8> =
        (0..bytes as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let file = sandbox.path().join("content");
    fs::write(&file, &content).unwrap();
    let sum = |text: String| text.split_whitespace().next().unwrap_or_default().to_string();
    let wanted = sum(Command::new("sha256sum").arg(&file).ok());
    for ours in OURS {
        let script = format!("{ENDLESS} nc -l -p 5000 <&3 >/dev/shm/content; sha256sum /dev/shm/content");
        let receiving = container.exec(&["sh", "-c", &script]).patience(240).start();
        until("the guest to listen", || container.sh("cat /proc/net/tcp*").contains(":1388 ").then_some(()));
        network.peer(&format!("busybox nc {ours} 5000 <{}", file.display())).patience(240).ok();
        assert_eq!(sum(receiving.wait().expect(0).text()), wanted, "to {ours}");
    }
    for peer in PEER {
        let receiving =
            network.peer(&format!("{ENDLESS} busybox nc -l -p 5001 <&3 | sha256sum")).patience(240).start();
        until("the peer to listen", || {
            network.peer("cat /proc/net/tcp*").ok().contains(":1389 ").then_some(())
        });
        container.exec(&["sh", "-c", &format!("nc {peer} 5001 </dev/shm/content")]).patience(240).ok();
        assert_eq!(sum(receiving.wait().expect(0).text()), wanted, "to {peer}");
    }
}

#[test]
fn a_device_has_the_queues_that_are_configured_and_each_carries_traffic() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox);
    // More than the machine has CPUs: it gets as many as these.
    sandbox.configure_more("[machine]\nmax_vcpus = 2\n[network]\nqueues = 8\n");
    let bundle = sandbox.bundle();
    bundle.change(|spec| spec["annotations"] = json!({ "io.clearcontainers.vcpus": "2" }));
    let container = sandbox.start(network.join(&bundle));
    assert_eq!(container.sh("echo $(ls /sys/class/net/eth0/queues)"), "rx-0 rx-1 tx-0 tx-1");
    // A kernel without RPS shows nothing else of a tap.
    let on_host = network.here("cd /sys/class/net/clear0/queues; echo tx-*").ok();
    assert_eq!(on_host.trim(), "tx-0 tx-1");
    // From one CPU after the other: each sends through a queue of its own, by which the answer comes back.
    for cpu in [1, 2] {
        for peer in PEER {
            container.sh(&format!("taskset {cpu} ping -c 3 -W 20 {peer}"));
        }
    }
    // Many flows, which the host spreads over the queues.
    for port in 5000..5005 {
        let receiving =
            container.exec(&["sh", "-c", &format!("{ENDLESS} nc -l -p {port} <&3 | md5sum")]).start();
        let listens = format!(":{port:04X} ");
        until("the guest to listen", || container.sh("cat /proc/net/tcp*").contains(&listens).then_some(()));
        let sent = network.peer(&format!(
            "head -c 1000000 /dev/urandom | tee {0} | busybox nc {1} {port}; md5sum < {0}",
            sandbox.path().join("content").display(),
            OURS[0]
        ));
        let sum = sent.patience(120).ok();
        assert_eq!(receiving.wait().expect(0).text().trim(), sum.trim(), "port {port}");
    }
    container.delete_force();

    bundle.change(|spec| spec["annotations"] = json!({ "io.clearcontainers.network_queues": "1" }));
    let container = sandbox.start(&bundle);
    assert_eq!(container.sh("echo $(ls /sys/class/net/eth0/queues)"), "rx-0 tx-0");
}

#[test]
fn packets_of_every_size_pass_on_links_of_every_mtu() {
    packets_of_every_size_pass("tc", &[1280, 9000, 65_535]);
}

pub(super) fn packets_of_every_size_pass(model: &str, mtus: &[u32]) {
    let sandbox = with_model(model);
    for &mtu in mtus {
        let network = Network::empty(&sandbox);
        network.link("eth0", mtu);
        let container = sleeping(&sandbox, &network);
        assert_eq!(container.sh("cat /sys/class/net/eth0/mtu"), mtu.to_string());
        // Eight bytes of ICMP and the header of IP make the largest packet that is not cut; then one that is.
        for size in [1, mtu.min(65_535) - 28, mtu.min(60_000) + 1000] {
            container.sh(&format!("ping -c 1 -W 20 -s {size} {}", PEER[0]));
            network.peer(&format!("busybox ping -c 1 -W 20 -s {size} {}", OURS[0])).ok();
        }
        container.sh(&format!("ping -c 1 -W 20 -s {} {}", mtu.min(60_000) - 48, PEER[1]));
        container.delete_force();
    }
}

#[test]
fn the_hosts_own_stack_does_not_answer_for_the_guest() {
    nobody_answers_but_the_guest("tc");
}

pub(super) fn nobody_answers_but_the_guest(model: &str) {
    let sandbox = with_model(model);
    let network = Network::new(&sandbox);
    let ask = |address: &str| {
        network.peer_ip("neighbour flush dev peer");
        network.peer(&format!("busybox ping -c 1 -W 2 {address}")).run().code
    };
    let connect = || network.peer(&format!("busybox nc -w 3 {} 7777 </dev/null", OURS[0])).run().errors();
    assert_eq!(
        (ask(OURS[0]), ask(OURS[1])),
        (0, 0),
        "the host's stack answers as long as there is no machine"
    );
    let container = sleeping(&sandbox, &network);
    assert!(connect().contains("refused"), "the guest resets a connection to a closed port");
    container.command(&["pause"]).run().expect(0);
    assert_eq!((ask(OURS[0]), ask(OURS[1])), (1, 1), "nobody answers while the guest stands still");
    let arp = || network.peer(&format!("busybox arping -c 2 -w 4 -I peer {}", OURS[0])).run().code;
    assert_eq!(arp(), 1, "not even to ARP");
    let words = connect();
    assert!(!words.contains("refused") && !words.is_empty(), "{words}");
    container.command(&["resume"]).run().expect(0);
    until("the guest to answer again", || (ask(OURS[0]) == 0).then_some(()));
    assert_eq!(arp(), 0);
}

#[test]
fn an_empty_namespace_and_the_model_none_leave_loopback_alone() {
    let sandbox = Sandbox::new();
    let (empty, full) = (Network::empty(&sandbox), Network::new(&sandbox));
    let container = sandbox.sleeping();
    assert_eq!(interfaces(&container), "lo");
    container.sh("ping -c 1 -W 20 127.0.0.1; ping -c 1 -W 20 ::1");
    assert_eq!(interfaces(&sleeping(&sandbox, &empty)), "lo");
    let before = full.everything();
    let bundle = sandbox.bundle();
    bundle.change(|spec| spec["annotations"] = json!({ "io.clearcontainers.network_model": "none" }));
    assert_eq!(interfaces(&sandbox.start(full.join(&bundle))), "lo");
    sandbox.configure_more("[network]\nmodel = \"none\"\n");
    assert_eq!(interfaces(&sleeping(&sandbox, &full)), "lo");
    assert_eq!(full.everything(), before);
}

/// As Docker names it for `--network=host`: by a path.
#[test]
fn the_hosts_own_network_is_refused_by_its_path_too() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        vm_tests::remove_namespace(spec, "network");
        let path = format!("/proc/{}/ns/net", std::process::id());
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "network", "path": path }));
    });
    sandbox.run(&bundle).refused("the host's own network");
    sandbox.assert_nothing_left();
}

#[test]
fn delete_leaves_the_namespace_as_it_was_whoever_was_killed() {
    delete_leaves_the_namespace_as_it_was("tc", 2);
}

/// In which each machine has so many `taps`.
pub(super) fn delete_leaves_the_namespace_as_it_was(model: &str, taps: usize) {
    let sandbox = with_model(model);
    let network = Network::new(&sandbox);
    // Neighbours come and go by themselves.
    let look = || {
        network.ip("neighbour flush all");
        network.everything()
    };
    let before = look();
    let deaths: [&dyn Fn(&Container<'_>); 5] = [
        &|container| container.kill("KILL"),
        &|container| send_signal(container.pid(), libc::SIGKILL),
        &|container| send_signal(container.vmm_pid(), libc::SIGKILL),
        &|container| {
            send_signal(container.pid(), libc::SIGSTOP);
            send_signal(container.vmm_pid(), libc::SIGKILL);
        },
        &|container| {
            assert_eq!(make_taps_stay(container.vmm_pid()), taps);
            send_signal(container.pid(), libc::SIGKILL);
        },
    ];
    for death in deaths {
        let container = sleeping(&sandbox, &network);
        assert!(look().contains(" clear") && look().contains("ingress"), "{}", look());
        death(&container);
        container.command(&["delete", "--force"]).run().expect(0);
        assert_eq!(look(), before);
        sandbox.assert_nothing_left_but(&network.names());
        network.peer(&format!("busybox ping -c 1 -W 5 {}", OURS[0])).ok();
    }
    // `create` that fails leaves nothing either.
    let bundle = sandbox.bundle();
    network.join(&bundle).program(&["/no/such/program"]);
    sandbox.run(&bundle).refused("no such file");
    assert_eq!(look(), before);
}

#[test]
fn a_second_machine_is_refused_and_does_not_disturb_the_first() {
    second_machine_is_refused("tc", &["tc", "bridge", "macvtap"]);
}

/// Of whichever model of `others` it is.
pub(super) fn second_machine_is_refused(model: &str, others: &[&str]) {
    let sandbox = with_model(model);
    let network = Network::new(&sandbox);
    let first = sleeping(&sandbox, &network);
    let bundle = sandbox.bundle();
    for other in others {
        bundle.change(|spec| spec["annotations"] = json!({ "io.clearcontainers.network_model": other }));
        let line = sandbox.run(network.join(&bundle)).refused("another machine uses it");
        assert!(line.contains("\"eth0\"") && line.contains("tc qdisc delete dev eth0 ingress"), "{line}");
    }
    first.sh(&format!("ping -c 1 -W 20 {}", PEER[0]));
    network.peer(&format!("busybox ping -c 1 -W 20 {}", OURS[0])).ok();
    first.delete_force();
    // What somebody else has put there stays.
    network.here("tc qdisc add dev eth0 clsact").ok();
    sandbox.run(&bundle).refused("ingress queueing discipline");
    assert!(network.everything().contains("clsact"));
}

/// Moves a new interface `eth0` into the namespace of a process and sets it up there, as Docker does.
fn plug(pid: &str) -> String {
    format!(
        "pid={pid}; ip link add plug type veth peer name peer; ip address add {}/24 dev peer; ip link set peer up; \
        ip link set plug netns $pid name eth0; in_() {{ nsenter -t $pid -n ip \"$@\"; }}; \
        in_ address add {}/24 dev eth0; in_ link set eth0 up; in_ route add default via {}",
        PEER[0], OURS[0], PEER[0]
    )
}

#[test]
fn an_interface_that_comes_by_a_hook_or_before_start_is_there() {
    interface_that_comes_later_is_there("tc");
}

pub(super) fn interface_that_comes_later_is_there(model: &str) {
    let sandbox = with_model(model);
    let network = Network::empty(&sandbox);
    let show = format!("ip address show eth0; ip route; ping -c 1 -W 20 {}", PEER[0]);
    let check = |bundle: &Bundle, plug_it: &dyn Fn(&Container<'_>)| {
        let container = sandbox.create(bundle.script(&show));
        plug_it(&container);
        let pid = container.pid();
        container.start();
        assert_eq!(Container::reap(pid), 0, "{}", container.output());
        let text = container.output().text();
        assert!(text.contains("10.77.0.2/24") && text.contains("default via 10.77.0.1"), "{text}");
        container.delete();
        until("the interface to go with its namespace", || {
            (!network.peer_ip("link").contains("peer")).then_some(())
        });
    };
    // Docker 26 and later: between create and start.
    check(&sandbox.bundle(), &|container| {
        network.peer(&plug(&container.pid().to_string())).ok();
    });
    // Docker up to 25: in a prestart hook.
    let bundle = sandbox.bundle();
    let script = plug("$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')");
    let args = ["ip", "netns", "exec", network.names()[1], "sh", "-c", &script];
    bundle.change(|spec| {
        let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        spec["hooks"]["prestart"] = json!([{ "path": "/sbin/ip", "args": args, "env": [path] }]);
    });
    check(&bundle, &|_| {});
}

#[test]
fn interfaces_come_and_go_while_the_program_runs() {
    interfaces_come_and_go("tc");
}

pub(super) fn interfaces_come_and_go(model: &str) {
    let sandbox = with_model(model);
    sandbox.configure_more("[network]\nmin_devices = 2\n");
    let network = Network::new(&sandbox);
    let container = sleeping(&sandbox, &network);
    assert_eq!(interfaces(&container), "eth0\nlo");
    for _ in 0..2 {
        network.pair("net1", "peer1", 1500);
        network.ip("address add 10.78.0.2/24 dev net1");
        until("the new interface in the guest", || {
            container.sh("ip address").contains("10.78.0.2/24").then_some(())
        });
        network.peer_ip("address add 10.78.0.1/24 dev peer1");
        container.sh("ping -c 1 -W 20 10.78.0.1");
        network.ip("link delete net1");
        until("the old interface to go", || (interfaces(&container) == "eth0\nlo").then_some(()));
    }
    network.ip("address add 10.77.0.99/24 dev eth0");
    until("the new address in the guest", || container.sh("ip address").contains("10.77.0.99").then_some(()));
    container.sh(&format!("ping -c 1 -W 20 {}", PEER[0]));
}

#[test]
fn more_interfaces_than_devices_are_refused_with_the_fix() {
    let sandbox = Sandbox::new();
    sandbox.configure_more("[network]\nmin_devices = 0\n");
    let bundle = sandbox.bundle();
    let container = sandbox.create(&bundle);
    let network = Network::empty(&sandbox);
    network.peer(&plug(&container.pid().to_string())).ok();
    let line = container.command(&["start"]).run().refused("network.min_devices to at least 1");
    assert!(line.contains("\"eth0\"") && line.contains("0 network device(s)"), "{line}");
    assert_eq!(container.status(), "created");
    container.delete();
}

#[test]
fn a_namespace_that_does_not_exist_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.iter_mut().find(|n| n["type"] == "network").unwrap()["path"] = "/run/netns/no-such".into();
    });
    let line = sandbox.run(&bundle).refused("network namespace /run/netns/no-such");
    assert!(line.contains("No such file"), "{line}");
    sandbox.assert_nothing_left();
}
