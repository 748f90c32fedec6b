//! `cor events`: numbers that are real.

use crate::GUEST_HALF;
use serde_json::Value;
use vm_tests::{Container, Sandbox};

fn stats(container: &Container<'_>) -> Value {
    let event: Value = serde_json::from_str(&container.command(&["events", "--stats"]).ok()).unwrap();
    assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some(container.id.as_str())));
    event["data"].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number in {value}"))
}

#[test]
fn statistics_follow_what_the_container_does() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.host_program(GUEST_HALF, "guest_half").change(|spec| {
        spec["linux"]["resources"]["memory"]["limit"] = (300 << 20).into();
        spec["linux"]["resources"]["pids"]["limit"] = 77.into();
    });
    let container = sandbox.start(&bundle);
    let before = stats(&container);
    assert_eq!(number(&before["memory"]["usage"]["limit"]), 300 << 20);
    assert_eq!((number(&before["pids"]["current"]), number(&before["pids"]["limit"])), (1, 77));

    let mut command = container.exec(&["guest_half", "eat", "100"]).std();
    let mut eater =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(eater.stdout.as_mut().unwrap(), &mut [0; 4]).unwrap();
    let after = stats(&container);
    let grown = number(&after["memory"]["usage"]["usage"]) - number(&before["memory"]["usage"]["usage"]);
    assert!((100 << 20..140 << 20).contains(&grown), "{grown} bytes for 100 MiB");
    assert_eq!(number(&after["pids"]["current"]), 2);
    drop(eater.stdin.take());
    assert!(eater.wait().unwrap().success());

    let cpu = |stats: &Value| number(&stats["cpu"]["usage"]["total"]);
    let used = container.sh("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; awk '/usage_usec/ {print $2}' /sys/fs/cgroup/cpu.stat");
    let now = stats(&container);
    assert!(cpu(&now) > cpu(&before), "CPU time grows");
    assert!(cpu(&now) / 1000 >= used.parse::<u64>().unwrap(), "the unit is nanoseconds: {now} and {used} us");
    assert!(number(&now["memory"]["usage"]["max"]) >= 100 << 20, "the peak stays");
    let host = &now["machine"]["host"];
    assert!(
        number(&host["vmm"]["private"]) > 10 << 20 && number(&host["keeper"]["private"]) < 8 << 20,
        "{host}"
    );
}

#[test]
fn events_go_on_until_the_container_ends() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let running = container.command(&["events", "--interval", "50ms"]).start();
    vm_tests::until("three events", || (running.output_so_far().lines().len() >= 3).then_some(()));
    let pid = container.pid();
    container.kill("KILL");
    assert_eq!(Container::reap(pid), 137);
    let output = running.wait().expect(0);
    assert!(output.lines().iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{output}");
    container.command(&["events", "--interval", "soon"]).run().refused("--interval");
}
