//! What a machine of its own rules out, and how the user is told.

use crate::tests;
use vm_tests::engine::{Engine, is_ours};

tests![
    namespaces_of_the_host_are_refused,
    the_hosts_name_and_shared_memory_are_the_machines,
    namespaces_of_another_container_are_refused
];

/// Runs with an option that no machine can give; the message must have these words, and nothing may be left.
#[track_caller]
fn refused(engine: &Engine, option: &str, words: &str) {
    let output = engine.run(&[option], &["true"]).run();
    assert!(matches!(output.code, 125 | 126 | 1), "{option}: {output}");
    assert!(output.errors().contains(words), "{words:?} in {option}: {output}");
}

fn namespaces_of_the_host_are_refused(engine: &Engine) {
    if is_ours() {
        refused(engine, "--network=host", "the host's own network");
        refused(engine, "--pid=host", "PID namespace");
    }
}

fn the_hosts_name_and_shared_memory_are_the_machines(engine: &Engine) {
    let output = engine
        .script(&["--uts=host", "--ipc=host"], "hostname; echo x > /dev/shm/of-the-container; ls /dev/shm");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    assert!(output.clone().expect(0).text().starts_with(name.trim()), "{output}");
    let _ = std::fs::remove_file("/dev/shm/of-the-container");
}

fn namespaces_of_another_container_are_refused(engine: &Engine) {
    if is_ours() {
        let other = engine.sleeping(&["--ipc=shareable"]);
        for kind in ["pid", "network", "ipc"] {
            refused(engine, &format!("--{kind}=container:{}", other.name()), "belongs to container");
        }
    }
}
