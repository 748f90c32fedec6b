//! A container's life: start, signals, pauses, end.

use crate::tests;
use serde_json::json;
use vm_tests::engine::{Engine, is_ours};
use vm_tests::until;

tests![
    a_detached_container_is_logged_and_waited_for,
    logs_follow,
    rm_leaves_nothing,
    stop_asks_and_then_kills,
    signals_arrive,
    a_paused_container_stands_still,
    a_container_is_restarted,
    a_restart_policy_holds,
    inspect_tells_the_truth,
    a_killed_machine_is_an_ended_container,
    health_is_checked,
    processes_are_listed,
];

fn a_detached_container_is_logged_and_waited_for(engine: &Engine) {
    let container = engine.start(&[], &["sh", "-c", "echo out; echo err >&2; exit 12"]);
    assert_eq!(container.wait(), 12);
    let logs = container.logs();
    assert_eq!((logs.text().as_str(), logs.errors().trim_end()), ("out", "err"));
    assert!(engine.command(&["ps", "-a"]).ok().contains("Exited (12)"));
}

fn logs_follow(engine: &Engine) {
    let container = engine
        .start(&[], &["sh", "-c", "echo one; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo two; sleep 2"]);
    container.expect_log("one");
    let follower = container.command(&["logs", "-f"]).start();
    container.sh("touch /tmp/go");
    assert_eq!(follower.wait().expect(0).lines(), ["one", "two"]);
}

fn rm_leaves_nothing(engine: &Engine) {
    let name = engine.new_name();
    engine.run(&["--name", &name], &["true"]).ok();
    assert!(!engine.command(&["ps", "-a", "--format={{.Names}}"]).ok().lines().any(|line| line == name));
    let container = engine.sleeping(&[]);
    let refused = container.command(&["rm"]).run();
    assert_ne!(refused.code, 0, "a running container is not removed without force: {refused}");
}

fn stop_asks_and_then_kills(engine: &Engine) {
    let polite =
        engine.start(&[], &["sh", "-c", "trap 'exit 21' TERM; echo ready; while :; do sleep 0.1; done"]);
    polite.expect_log("ready");
    polite.command(&["stop", "-t", "50"]).ok();
    assert_eq!(polite.inspect("/State/ExitCode"), json!(21));
    let deaf = engine.start(&[], &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]);
    deaf.expect_log("ready");
    deaf.command(&["stop", "-t", "1"]).ok();
    assert_eq!(deaf.inspect("/State/ExitCode"), json!(137));
}

fn signals_arrive(engine: &Engine) {
    let script = "for s in HUP INT QUIT USR1 USR2 ALRM TERM CONT WINCH 34; do trap \"echo got-$s.\" $s; done; echo ready; while :; do sleep 0.1; done";
    let container = engine.start(&[], &["sh", "-c", script]);
    container.expect_log("ready");
    for signal in ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "WINCH", "34"] {
        container.command(&["kill", "--signal", signal]).ok();
        container.expect_log(&format!("got-{signal}."));
    }
    container.command(&["kill"]).ok();
    assert_eq!(container.wait(), 137);
}

fn a_paused_container_stands_still(engine: &Engine) {
    let container = engine.start(&[], &["sh", "-c", "while :; do echo x; sleep 0.05; done"]);
    container.expect_log("x");
    container.command(&["pause"]).ok();
    assert_eq!(container.inspect("/State/Status"), json!("paused"));
    let lines = || container.logs().lines().len();
    // What was on its way has come after a moment.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = lines();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(lines(), before);
    container.command(&["unpause"]).ok();
    until("more lines", || (lines() > before).then_some(()));
}

fn a_container_is_restarted(engine: &Engine) {
    let container = engine.start(&[], &["sh", "-c", "echo x >> /count; wc -l < /count; exec sleep 1000"]);
    container.expect_log("1");
    container.command(&["restart", "-t", "0"]).ok();
    container.expect_log("2");
    container.command(&["stop", "-t", "0"]).ok();
    container.command(&["start"]).ok();
    container.expect_log("3");
}

fn a_restart_policy_holds(engine: &Engine) {
    let container = engine.start(&["--restart=on-failure:2"], &["sh", "-c", "echo again; exit 1"]);
    until("three starts", || (container.logs().lines().len() == 3).then_some(()));
    until("the end", || (container.inspect("/State/Running") == json!(false)).then_some(()));
    assert_eq!(container.inspect("/State/ExitCode"), json!(1));
    assert_eq!(container.inspect("/RestartCount"), json!(2));
}

fn inspect_tells_the_truth(engine: &Engine) {
    let container = engine.sleeping(&[]);
    let pid = container.inspect("/State/Pid").as_u64().expect("a pid");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(container.inspect("/State/Status"), json!("running"));
    container.command(&["kill"]).ok();
    container.wait();
    until("the end", || (container.inspect("/State/Pid") == json!(0)).then_some(()));
    assert_eq!(container.inspect("/State/ExitCode"), json!(137));
    assert_eq!(container.inspect("/State/OOMKilled"), json!(false));
}

fn a_killed_machine_is_an_ended_container(engine: &Engine) {
    let container = engine.sleeping(&[]);
    let pid = container.inspect("/State/Pid").as_u64().expect("a pid");
    vm_tests::send_signal(pid.try_into().expect("a pid"), libc::SIGKILL);
    assert_eq!(container.wait(), 137);
    container.command(&["start"]).ok();
    assert_eq!(container.sh("echo back"), "back");
}

fn health_is_checked(engine: &Engine) {
    let container =
        engine.sleeping(&["--health-cmd=test -e /tmp/well", "--health-interval=1s", "--health-retries=1"]);
    // Podman leaves the checks to systemd's timers; there is none here.
    let check = |expected: &str| {
        let (pointer, code) = if expected == "healthy" { ("healthy", 0) } else { ("unhealthy", 1) };
        if engine.is_docker() {
            until(pointer, || (container.inspect("/State/Health/Status") == json!(pointer)).then_some(()));
        } else {
            container.command(&["healthcheck", "run"]).run().expect(code);
        }
    };
    container.sh("touch /tmp/well");
    check("healthy");
    container.sh("rm /tmp/well");
    check("unhealthy");
}

fn processes_are_listed(engine: &Engine) {
    let container = engine.sleeping(&[]);
    let listed = container.command(&["top"]).ok();
    assert!(listed.lines().count() >= 2, "{listed}");
    // What runs it on the host, or the program: not the host's other processes.
    let expected = if is_ours() { "cor" } else { "sleep" };
    assert!(listed.contains(expected) && !listed.contains("unshare"), "{listed}");
    // With options of ps, Podman asks the container's own.
    if !engine.is_docker() {
        assert!(container.command(&["top"]).arg("-o").arg("args").ok().contains("sleep 1000"));
    }
}
