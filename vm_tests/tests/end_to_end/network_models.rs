//! The models `bridge` and `macvtap` give a container what the default one does, and leave no more behind.

use super::network::{
    delete_leaves_the_namespace_as_it_was, guest_has_what_the_namespace_has,
    interface_that_comes_later_is_there, interfaces, interfaces_come_and_go, nobody_answers_but_the_guest,
    packets_of_every_size_pass, pings_and_streams_pass, second_machine_is_refused, sleeping, with_model,
};
use serde_json::json;
use vm_tests::{Network, OURS, PEER, send_signal, until};

const MODELS: [&str; 2] = ["bridge", "macvtap"];

/// Bytes of the streams.
const STREAM: usize = 16 << 20;

#[test]
fn the_guest_of_a_bridge_has_what_the_namespace_has() {
    guest_has_what_the_namespace_has("bridge");
}

#[test]
fn the_guest_of_a_macvtap_has_what_the_namespace_has() {
    guest_has_what_the_namespace_has("macvtap");
}

#[test]
fn pings_and_streams_pass_a_bridge_both_ways() {
    pings_and_streams_pass("bridge", STREAM);
}

#[test]
fn pings_and_streams_pass_a_macvtap_both_ways() {
    pings_and_streams_pass("macvtap", STREAM);
}

#[test]
fn packets_of_every_size_pass_bridges_and_macvtaps() {
    packets_of_every_size_pass("bridge", &[1280, 9000]);
    packets_of_every_size_pass("macvtap", &[1280, 9000, 65_535]);
}

#[test]
fn the_hosts_own_stack_does_not_answer_behind_a_bridge() {
    nobody_answers_but_the_guest("bridge");
}

#[test]
fn the_hosts_own_stack_does_not_answer_behind_a_macvtap() {
    nobody_answers_but_the_guest("macvtap");
}

#[test]
fn delete_takes_bridges_away_whoever_was_killed() {
    delete_leaves_the_namespace_as_it_was("bridge", 2);
}

#[test]
fn delete_takes_macvtaps_away_whoever_was_killed() {
    // The other device is a macvtap, which stays anyway.
    delete_leaves_the_namespace_as_it_was("macvtap", 1);
}

#[test]
fn second_machines_are_refused_whichever_the_models_are() {
    for model in MODELS {
        second_machine_is_refused(model, &["tc", "bridge", "macvtap"]);
    }
}

#[test]
fn interfaces_that_come_later_are_bridged_or_redirected() {
    for model in MODELS {
        interface_that_comes_later_is_there(model);
        interfaces_come_and_go(model);
    }
}

#[test]
fn a_model_is_what_it_says_and_a_late_interface_has_its_warning() {
    for (model, name) in [("bridge", ": clearb"), ("macvtap", ": clearv")] {
        let sandbox = with_model("tc");
        let network = Network::new(&sandbox);
        let bundle = sandbox.bundle();
        bundle.change(|spec| spec["annotations"] = json!({ "io.clearcontainers.network_model": model }));
        let container = sandbox.start(network.join(&bundle));
        let links = || network.ip(&format!("link show type {model}"));
        assert_eq!(links().matches(name).count(), 1, "{}", links());
        network.pair("net1", "peer1", 1500);
        until("the new interface in the guest", || {
            (interfaces(&container) == "eth0\nlo\nnet1").then_some(())
        });
        let ours = links().matches(name).count();
        // It is a container that failed which is asked about.
        send_signal(container.vmm_pid(), libc::SIGKILL);
        container.wait_for("stopped");
        let why = container.command(&["why"]).ok();
        let warned =
            why.contains("\"net1\" has come after the machine was started, so it is redirected by tc");
        assert_eq!((ours, warned), if model == "bridge" { (2, false) } else { (1, true) }, "{why}");
    }
}

/// An interface may get another MAC or MTU while the program runs, as the guest does then.
#[test]
fn another_mac_is_the_guests_too() {
    for model in MODELS {
        let sandbox = with_model(model);
        let network = Network::new(&sandbox);
        let container = sandbox.start(network.join(&sandbox.bundle()));
        network.ip("link set eth0 address 02:77:00:00:00:09");
        until("the new MAC in the guest", || {
            container.sh("cat /sys/class/net/eth0/address").contains("02:77:00:00:00:09").then_some(())
        });
        network.peer_ip("neighbour flush dev peer");
        for (ours, peer) in OURS.iter().zip(PEER) {
            container.sh(&format!("ping -c 1 -W 20 {peer}"));
            network.peer(&format!("busybox ping -c 1 -W 20 {ours}")).ok();
        }
        assert!(network.peer_ip("neighbour").contains("02:77:00:00:00:09"), "{model}");
    }
}

/// One machine after the other in one namespace, as when an engine restarts a container.
#[test]
fn a_namespace_serves_machines_of_all_models_one_after_the_other() {
    let sandbox = with_model("tc");
    let network = Network::new(&sandbox);
    let mac = network.ip("link show eth0");
    for model in ["macvtap", "macvtap", "bridge", "bridge", "tc", "macvtap"] {
        let bundle = sandbox.bundle();
        bundle.change(|spec| spec["annotations"] = json!({ "io.clearcontainers.network_model": model }));
        let container = sandbox.start(network.join(&bundle));
        container.sh(&format!("ping -c 1 -W 20 {}; ping -c 1 -W 20 {}", PEER[0], PEER[1]));
        container.delete_force();
        assert_eq!(network.ip("link show eth0"), mac, "{model}");
    }
    let container = sleeping(&sandbox, &network);
    container.sh(&format!("ping -c 1 -W 20 {}", PEER[0]));
}

/// Several queues of a macvtap are several descriptors of its device.
#[test]
fn a_macvtap_has_the_queues_that_are_configured() {
    let sandbox = with_model("macvtap");
    let network = Network::new(&sandbox);
    sandbox.configure_more("[machine]\nmax_vcpus = 2\n[network]\nqueues = 8\n");
    let bundle = sandbox.bundle();
    bundle.change(|spec| spec["annotations"] = json!({ "io.clearcontainers.vcpus": "2" }));
    let container = sandbox.start(network.join(&bundle));
    assert_eq!(container.sh("echo $(ls /sys/class/net/eth0/queues)"), "rx-0 rx-1 tx-0 tx-1");
    for cpu in [1, 2] {
        for (ours, peer) in OURS.iter().zip(PEER) {
            container.sh(&format!("taskset {cpu} ping -c 3 -W 20 {peer}"));
            network.peer(&format!("busybox ping -c 3 -W 20 {ours}")).ok();
        }
    }
}
