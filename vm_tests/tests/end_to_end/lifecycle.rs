//! create, start, state, kill, delete, list.

use serde_json::Value;
use std::fs;
use std::path::Path;
use vm_tests::{Container, Sandbox};

const TRAP: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done";

#[test]
fn a_container_goes_from_created_over_running_to_stopped() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script(&format!("touch /started; {TRAP}"));
    let pid_file = sandbox.path().join("pid");
    let container = Container::create(&sandbox, &bundle, &["--pid-file", pid_file.to_str().unwrap()]);

    let state = container.state();
    assert_eq!(
        (&state["status"], &state["id"]),
        (&Value::from("created"), &Value::from(container.id.clone()))
    );
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(Path::new(state["bundle"].as_str().unwrap()), fs::canonicalize(bundle.path()).unwrap());
    assert!(!bundle.rootfs("/started").exists(), "create must not run the program");
    let pid = container.pid();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());

    container.start();
    assert_eq!(container.status(), "running");
    vm_tests::until("the program's first words", || container.output().text().contains("up").then_some(()));
    assert!(bundle.rootfs("/started").exists());
    assert_eq!(container.pid(), pid, "the pid stays the same");

    container.kill("TERM");
    assert_eq!(Container::reap(pid), 7, "the keeper's exit code is the program's");
    let state = container.state();
    assert_eq!(
        (state["status"].as_str(), state["pid"].as_u64(), state["exitCode"].as_u64()),
        (Some("stopped"), Some(0), Some(7))
    );
    container.delete();
    container.command(&["state"]).run().refused("does not exist");
    sandbox.assert_nothing_left();
}

#[test]
fn commands_in_the_wrong_state_are_refused_and_change_nothing() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script(TRAP);
    let container = sandbox.create(&bundle);
    container.command(&["pause"]).run().refused("not running");
    assert_eq!(container.status(), "created");
    container.start();
    container.command(&["start"]).run().refused("running");
    vm_tests::until("the program's first words", || container.output().text().contains("up").then_some(()));
    container.command(&["delete"]).run().refused("--force");
    container.command(&["resume"]).run().refused("not paused");
    assert_eq!(container.status(), "running");
    let pid = container.pid();
    container.kill("SIGTERM");
    assert_eq!(Container::reap(pid), 7);
    container.command(&["start"]).run().refused("stopped");
    container.command(&["kill"]).run().refused("container not running");
    container.exec(&["true"]).run().refused("stopped");
    container.command(&["ps"]).run().refused("not running");
    container.command(&["pause"]).run().refused("not running");
    container.command(&["kill", "--all"]).run().expect(0);
    container.delete();
}

#[test]
fn a_created_container_can_be_deleted_without_force() {
    let sandbox = Sandbox::new();
    let container = sandbox.create(&sandbox.bundle());
    let pid = container.pid();
    container.delete();
    sandbox.assert_nothing_left();
    assert_eq!(Container::reap(pid), 137);
}

#[test]
fn a_created_container_can_be_killed() {
    let sandbox = Sandbox::new();
    let container = sandbox.create(&sandbox.bundle());
    let pid = container.pid();
    container.kill("KILL");
    assert_eq!(Container::reap(pid), 137);
    assert_eq!(container.status(), "stopped");
    container.delete();
}

#[test]
fn a_duplicate_id_is_refused_and_the_first_container_lives_on() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let container = sandbox.start(&bundle);
    let again =
        |command: &str| sandbox.cor(&[command, "--bundle"]).arg(bundle.path()).arg(&container.id).run();
    again("create").refused("already exists");
    again("run").refused("already exists");
    assert_eq!(container.sh("echo alive"), "alive");
}

#[test]
fn hostile_ids_are_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    for id in ["../x", "..", ".", "", "a/b", "a b", "ü", "a\nb", &"x".repeat(5000)] {
        for command in ["create", "run"] {
            let output = sandbox.cor(&[command, "--bundle"]).arg(bundle.path()).arg("--").arg(id).run();
            let line = output.refused("invalid container ID");
            assert!(line.len() < 400, "{line}");
        }
        for command in ["state", "start", "delete", "kill", "ps"] {
            sandbox.cor(&[command, "--", id]).run().refused("invalid container ID");
        }
        sandbox.cor(&["delete", "--force", "--", id]).run().refused("invalid container ID");
    }
    sandbox.assert_nothing_left();
    assert!(!sandbox.path().join("x").exists());
}

#[test]
fn a_missing_container_is_an_error_but_for_delete_force() {
    let sandbox = Sandbox::new();
    for command in ["state", "start", "delete", "kill", "ps", "pause", "resume", "events", "update"] {
        sandbox.cor(&[command, "nobody"]).run().refused("does not exist");
    }
    sandbox.cor(&["exec", "nobody", "true"]).run().refused("does not exist");
    assert_eq!(sandbox.cor(&["delete", "--force", "nobody"]).run().expect(0).errors(), "");
}

#[test]
fn changes_of_the_configuration_after_create_have_no_effect() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("echo first");
    let container = sandbox.create(&bundle);
    bundle.script("echo second");
    let pid = container.pid();
    container.start();
    assert_eq!(Container::reap(pid), 0);
    assert_eq!(container.output().text(), "first");
}

#[test]
fn list_shows_all_containers_of_the_root() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.cor(&["list", "--quiet"]).ok(), "");
    assert_eq!(sandbox.cor(&["list", "--format", "json"]).ok(), "[]");
    let (one, two) = (sandbox.create(&sandbox.bundle()), sandbox.sleeping());
    assert_eq!(sandbox.cor(&["list", "-q"]).ok(), format!("{}\n{}", one.id, two.id));
    let list: Value = serde_json::from_str(&sandbox.cor(&["list", "-f", "json"]).ok()).unwrap();
    assert_eq!((&list[0]["id"], &list[0]["status"]), (&Value::from(one.id.clone()), &Value::from("created")));
    assert_eq!((&list[1]["id"], &list[1]["pid"]), (&Value::from(two.id.clone()), &Value::from(two.pid())));
    let table = sandbox.cor(&["list"]).run().expect(0).lines();
    assert!(table[0].starts_with("ID"), "{table:?}");
    assert!(table[1].contains("created") && table[2].contains("running"), "{table:?}");
}

#[test]
fn two_containers_started_at_the_same_moment_do_not_disturb_each_other() {
    let sandbox = Sandbox::new();
    let commands: Vec<_> = ["one", "two", "three"]
        .iter()
        .map(|word| {
            let bundle = sandbox.bundle();
            bundle.script(&format!(
                "hostname; echo {word} > /file; cat /file; ls /proc | grep -c '^[0-9]'; exit 4"
            ));
            bundle.change(|spec| spec["hostname"] = (*word).into());
            sandbox.run_command(&bundle).start()
        })
        .collect();
    for (running, word) in commands.into_iter().zip(["one", "two", "three"]) {
        let lines = running.wait().expect(4).lines();
        assert_eq!(lines[..2], [word, word]);
        assert!(lines[2].parse::<u32>().unwrap() <= 4, "only its own processes: {lines:?}");
    }
    sandbox.assert_nothing_left();
}
