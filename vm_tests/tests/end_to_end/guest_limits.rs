//! Limits of a container in its guest.

use crate::GUEST_HALF;
use serde_json::json;
use vm_tests::{Container, Sandbox};

#[test]
fn resource_limits_of_processes_are_set() {
    let sandbox = Sandbox::new();
    let output = sandbox.script("ulimit -Sn; ulimit -Hn; ulimit -Hc; ulimit -Su; ulimit -Sl", |spec| {
        spec["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 1000, "hard": 2000 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_NPROC", "soft": 123, "hard": 500 }, { "type": "RLIMIT_MEMLOCK", "soft": 1_073_741_824_u64, "hard": 1_073_741_824_u64 },
        ]);
    });
    assert_eq!(output.lines(), ["1000", "2000", "0", "123", "1048576"]);
}

#[test]
fn control_group_limits_are_in_force() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 64 << 20, "reservation": 32 << 20, "swap": 64 << 20 },
            "cpu": { "shares": 512, "quota": 150_000, "period": 100_000 },
            "pids": { "limit": 20 },
            "blockIO": { "weight": 500 },
            "unified": { "memory.high": "60000000" },
        });
    });
    let container = sandbox.start(&bundle);
    let files = "memory.max memory.low cpu.max cpu.weight pids.max memory.high";
    let values = container.sh(&format!("cd /sys/fs/cgroup; cat {files}"));
    assert_eq!(
        values.lines().collect::<Vec<_>>(),
        ["67108864", "33554432", "150000 100000", "20", "20", "59998208"]
    );
    let output = container.exec(&["sh", "-c", "for i in $(seq 30); do sleep 3 & done; wait"]).run();
    assert!(output.errors().contains("fork"), "{output}");
    let write = container.exec(&["sh", "-c", "echo max > /sys/fs/cgroup/memory.max"]).run();
    assert_ne!(write.code, 0, "the container cannot lift its own limit: {write}");
}

#[test]
fn a_kill_for_lack_of_memory_is_reported() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.host_program(GUEST_HALF, "guest_half").program(&["guest_half", "eat", "200"]);
    bundle
        .change(|spec| spec["linux"]["resources"]["memory"] = json!({ "limit": 50 << 20, "swap": 50 << 20 }));
    let container = sandbox.create(&bundle);
    let pid = container.pid();
    container.start();
    assert_eq!(Container::reap(pid), 137);
    let state = container.state();
    assert_eq!(
        (state["oomKilled"].as_bool(), state["exitCode"].as_u64()),
        (Some(true), Some(137)),
        "{state}"
    );
    container.delete();
}

#[test]
fn a_process_that_survives_another_ones_kill_runs_on() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.host_program(GUEST_HALF, "guest_half");
    bundle.change(|spec| spec["linux"]["resources"]["memory"] = json!({ "limit": 50 << 20 }));
    let container = sandbox.start(&bundle);
    container.exec(&["guest_half", "eat", "200"]).run().expect(137);
    assert_eq!(container.status(), "running");
    let events: serde_json::Value =
        serde_json::from_str(&container.command(&["events", "--stats"]).ok()).unwrap();
    assert_eq!(events["data"]["memory"]["oomKills"], 1, "{events}");
}

#[test]
fn an_unknown_unified_file_fails_with_its_name() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| spec["linux"]["resources"]["unified"] = json!({ "memory.no_such": "1" }));
    sandbox.run(&bundle).refused("memory.no_such");
    sandbox.assert_nothing_left();
}
