//! Hooks: on the host and in the guest, with the state on their standard input, with timeouts honoured.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use vm_tests::{Bundle, Container, Sandbox};

/// A hook that runs a shell script.
fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", "WORD=of the hook"] })
}

fn set(bundle: &Bundle, name: &str, hooks: &[Value]) {
    bundle.change(|spec| spec["hooks"][name] = json!(hooks));
}

fn state(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn host_hooks_run_in_order_with_the_state_on_their_input() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("exit 0");
    let log = sandbox.path().join("log");
    for name in ["prestart", "createRuntime", "poststart", "poststop"] {
        let file = sandbox.path().join(name);
        let first = hook(&format!("cat > {}; echo {name} 1 $WORD >> {}", file.display(), log.display()));
        set(&bundle, name, &[first, hook(&format!("echo {name} 2 >> {}", log.display()))]);
    }
    let container = sandbox.create(&bundle);
    let pid = container.pid();
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(lines(), "prestart 1 of the hook\nprestart 2\ncreateRuntime 1 of the hook\ncreateRuntime 2\n");
    for name in ["prestart", "createRuntime"] {
        let state = state(&sandbox.path().join(name));
        assert_eq!(
            (state["status"].as_str(), state["id"].as_str()),
            (Some("creating"), Some(container.id.as_str()))
        );
        assert_eq!(state["pid"].as_u64(), Some(u64::from(pid)), "a pid whose namespaces a hook can enter");
    }
    container.start();
    assert!(lines().ends_with("poststart 1 of the hook\npoststart 2\n"));
    assert_eq!(state(&sandbox.path().join("poststart"))["status"], "running");
    assert_eq!(Container::reap(pid), 0);
    assert!(!lines().contains("poststop"));
    container.delete();
    assert!(lines().ends_with("poststop 1 of the hook\npoststop 2\n"));
    assert_eq!(state(&sandbox.path().join("poststop"))["status"], "stopped");
}

#[test]
fn a_hook_of_create_finds_the_network_namespace_of_its_pid() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let file = sandbox.path().join("ns");
    let script = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net > {}",
        file.display()
    );
    set(&bundle, "prestart", &[hook(&script)]);
    let container = sandbox.create(&bundle);
    let own = fs::read_link(format!("/proc/{}/ns/net", container.pid())).unwrap();
    assert_eq!(fs::read_to_string(file).unwrap().trim(), own.to_str().unwrap());
    assert_ne!(own, fs::read_link("/proc/self/ns/net").unwrap());
}

#[test]
fn a_failing_hook_of_create_fails_it_and_nothing_is_left() {
    let sandbox = Sandbox::new();
    for name in ["prestart", "createRuntime"] {
        let bundle = sandbox.bundle();
        let after = sandbox.path().join(format!("after-{name}"));
        let stop = sandbox.path().join(format!("stop-{name}"));
        set(&bundle, name, &[hook("echo no disk >&2; exit 3"), hook(&format!("touch {}", after.display()))]);
        set(&bundle, "poststop", &[hook(&format!("touch {}", stop.display()))]);
        let line =
            sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run().refused(name);
        assert!(line.contains("exit status 3") && line.contains("no disk"), "{line}");
        assert!(!after.exists(), "later hooks do not run");
        assert!(stop.exists(), "poststop hooks run");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_failing_poststart_hook_fails_start_and_ends_the_container() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    set(&bundle, "poststart", &[hook("exit 4")]);
    let container = sandbox.create(&bundle);
    let pid = container.pid();
    container.command(&["start"]).run().refused("poststart");
    assert_eq!(Container::reap(pid), 137);
    container.delete();
}

#[test]
fn a_failing_poststop_hook_only_warns() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let file = sandbox.path().join("second");
    set(&bundle, "poststop", &[hook("exit 5"), hook(&format!("touch {}", file.display()))]);
    let container = sandbox.create(&bundle);
    let output = container.command(&["delete"]).run().expect(0);
    assert!(output.errors().contains("warning") && output.errors().contains("poststop"), "{output}");
    assert!(file.exists(), "the remaining hooks run");
}

#[test]
fn a_hook_that_hangs_is_killed_at_its_timeout() {
    let sandbox = Sandbox::new();
    for (name, command) in [("prestart", "create"), ("poststart", "run")] {
        let bundle = sandbox.bundle();
        let mut hanging = hook("exec sleep 1000");
        hanging["timeout"] = json!(1);
        set(&bundle, name, &[hanging]);
        let line =
            sandbox.cor(&[command, "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run().refused(name);
        assert!(line.contains("1 s"), "{line}");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn guest_hooks_run_in_the_guest_before_the_program() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("cat /create /start; echo program");
    let in_guest =
        |word: &str, file: &str| hook(&format!("cat > {file}.json; echo {word} $(uname -r) $WORD > {file}"));
    set(&bundle, "createContainer", &[in_guest("create", "/create")]);
    set(&bundle, "startContainer", &[in_guest("start", "/start")]);
    let container = sandbox.create(&bundle);
    assert!(bundle.rootfs("/create").exists() && !bundle.rootfs("/start").exists());
    let pid = container.pid();
    container.start();
    assert_eq!(Container::reap(pid), 0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let output = container.output().lines();
    assert!(output[0].starts_with("create ") && output[0].ends_with(" of the hook"), "{output:?}");
    assert!(output[1].starts_with("start ") && !output[1].contains(kernel.trim()), "{output:?}");
    assert_eq!(output[2], "program");
    assert_eq!(state(&bundle.rootfs("/start.json"))["status"], "created");
    assert_eq!(state(&bundle.rootfs("/create.json"))["id"], container.id.as_str());
}

#[test]
fn a_failing_guest_hook_fails_create_or_start() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    set(&bundle, "createContainer", &[hook("echo bad luck >&2; exit 6")]);
    let line = sandbox.run(&bundle).refused("createContainer");
    assert!(line.contains("exit status 6") && line.contains("bad luck"), "{line}");
    sandbox.assert_nothing_left();
    set(&bundle, "createContainer", &[]);
    set(&bundle, "startContainer", &[hook("exit 7")]);
    sandbox.run(&bundle).refused("startContainer");
    let mut hanging = hook("exec sleep 1000");
    hanging["timeout"] = json!(1);
    set(&bundle, "startContainer", &[hanging]);
    sandbox.run(&bundle).refused("1 s");
    sandbox.assert_nothing_left();
}
