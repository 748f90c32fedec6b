//! `cor update`: limits that are really in force in the guest.

use serde_json::json;
use vm_tests::{Container, Sandbox};

/// A container that can read its own control group.
fn limited(sandbox: &Sandbox) -> Container<'_> {
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 200 << 20 }, "cpu": { "quota": 50000, "period": 100_000, "shares": 1024 }, "pids": { "limit": 50 }
        });
    });
    sandbox.start(&bundle)
}

fn read(container: &Container<'_>, file: &str) -> String {
    container.sh(&format!("cat /sys/fs/cgroup/{file}"))
}

#[test]
fn update_changes_memory_cpu_and_pids() {
    let sandbox = Sandbox::new();
    let container = limited(&sandbox);
    assert_eq!(read(&container, "memory.max"), (200 << 20).to_string());
    assert_eq!(read(&container, "cpu.max"), "50000 100000");
    assert_eq!(read(&container, "pids.max"), "50");
    let update = |flags: &[&str]| {
        container.command(&[&["update"], flags].concat()).run().expect(0);
    };
    update(&["--memory", "100m", "--cpu-quota", "25000", "--cpu-share", "2048", "--pids-limit", "20"]);
    assert_eq!(read(&container, "memory.max"), (100 << 20).to_string());
    assert_eq!(read(&container, "cpu.max"), "25000 100000");
    assert_eq!(read(&container, "cpu.weight"), "79");
    assert_eq!(read(&container, "pids.max"), "20");
    let forks = container.exec(&["sh", "-c", "for i in $(seq 40); do sleep 5 & done; wait"]).run();
    assert!(forks.errors().contains("fork"), "the limit of processes is in force: {forks}");
    update(&["--pids-limit=-1"]);
    assert_eq!(read(&container, "pids.max"), "max");
}

#[test]
fn update_takes_resources_as_engines_send_them() {
    let sandbox = Sandbox::new();
    let container = limited(&sandbox);
    let resources = json!({ "memory": { "limit": 150 << 20, "reservation": 10 << 20 }, "cpu": { "quota": 30000, "period": 60000 }, "pids": { "limit": 30 } });
    sandbox.cor(&["update", "--resources", "-", &container.id]).input(resources.to_string()).run().expect(0);
    assert_eq!(read(&container, "memory.max"), (150 << 20).to_string());
    assert_eq!(read(&container, "memory.low"), (10 << 20).to_string());
    assert_eq!(read(&container, "cpu.max"), "30000 60000");
    let file = sandbox.path().join("resources.json");
    std::fs::write(&file, json!({ "pids": { "limit": 31 } }).to_string()).unwrap();
    let flag = format!("--resources={}", file.display());
    sandbox.cor(&["update", &flag, &container.id]).run().expect(0);
    assert_eq!(read(&container, "pids.max"), "31");
    assert_eq!(read(&container, "memory.max"), (150 << 20).to_string(), "what is not named stays");
    sandbox.cor(&["update", "--resources", "-", &container.id]).input("[]").run().refused("resources");
    container.command(&["update", "--memory", "many"]).run().refused("--memory");
}

#[test]
fn a_quota_really_throttles() {
    let sandbox = Sandbox::new();
    let container = limited(&sandbox);
    container.command(&["update", "--cpu-quota", "20000"]).run().expect(0);
    // Until it has happened: how much work that takes depends on how slow the machine is.
    container.sh("until grep -q 'nr_throttled [1-9]' /sys/fs/cgroup/cpu.stat; do :; done");
}
