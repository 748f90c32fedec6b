//! `cor pause`, `resume` and `ps`.

use vm_tests::{Container, Sandbox};

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("i=0; while :; do i=$((i+1)); echo $i > /count; done");
    let container = sandbox.start(&bundle);
    let count = || std::fs::read_to_string(bundle.rootfs("/count")).unwrap_or_default();
    vm_tests::until("the counter to run", || (count().len() > 1).then_some(()));
    container.command(&["pause"]).run().expect(0);
    assert_eq!(container.status(), "paused");
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(count(), before);
    container.command(&["pause"]).run().refused("paused already");
    container.exec(&["true"]).run().refused("paused");
    container.command(&["events", "--stats"]).run().refused("paused");
    container.command(&["delete"]).run().refused("--force");
    container.command(&["resume"]).run().expect(0);
    assert_eq!(container.status(), "running");
    vm_tests::until("the counter to go on", || (count() != before && !count().is_empty()).then_some(()));
    assert_eq!(container.sh("echo works"), "works");
}

#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    let sandbox = Sandbox::new();
    let (one, two) = (sandbox.sleeping(), sandbox.sleeping());
    let pid = one.pid();
    one.command(&["pause"]).run().expect(0);
    one.kill("KILL");
    assert_eq!(Container::reap(pid), 137);
    one.delete();
    two.command(&["pause"]).run().expect(0);
    two.delete_force();
    sandbox.assert_nothing_left();
}

#[test]
fn ps_shows_the_guests_processes_and_the_hosts_pid() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let running = container.exec_with(&["--user", "1000"], &["sleep", "996"]).start();
    let lines = vm_tests::until("the exec in ps", || {
        let lines = container.command(&["ps"]).run().expect(0).lines();
        lines.iter().any(|line| line.contains("sleep 996")).then_some(lines)
    });
    let words = |needle: &str| -> Vec<String> {
        let line = lines
            .iter()
            .find(|line| line.contains(needle))
            .unwrap_or_else(|| panic!("{needle} in {lines:?}"));
        line.split_whitespace().map(String::from).collect()
    };
    assert_eq!(words("UID")[..3], ["UID", "PID", "PPID"]);
    assert_eq!(words("sleep 1000")[0], "0");
    assert_eq!(words("sleep 996")[0], "1000");
    assert_eq!(lines.len(), 3, "nothing of the guest's own: {lines:?}");
    let json: Vec<u32> = serde_json::from_str(&container.command(&["ps", "--format", "json"]).ok()).unwrap();
    assert_eq!(json, [container.pid()]);
    drop(running);
}
