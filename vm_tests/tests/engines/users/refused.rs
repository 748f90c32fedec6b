//! What a machine of its own rules out, and how the user is told.

use crate::tests;
use vm_tests::engine::{Engine, is_ours};

tests![namespaces_of_the_host_are_refused, namespaces_of_another_container_are_refused];

/// Runs with an option that no machine can give; the message must have these words, and nothing may be left.
#[track_caller]
fn refused(engine: &Engine, option: &str, words: &str) {
    let output = engine.run(&[option], &["true"]).run();
    assert!(matches!(output.code, 125 | 126 | 1), "{option}: {output}");
    assert!(output.errors().contains(words), "{words:?} in {option}: {output}");
}

fn namespaces_of_the_host_are_refused(engine: &Engine) {
    if is_ours() {
        refused(engine, "--network=host", "network");
        refused(engine, "--pid=host", "PID namespace");
        refused(engine, "--ipc=host", "IPC namespace");
        refused(engine, "--uts=host", "UTS namespace");
    }
}

fn namespaces_of_another_container_are_refused(engine: &Engine) {
    if is_ours() {
        let other = engine.sleeping(&[]);
        refused(engine, &format!("--pid=container:{}", other.name()), "namespace");
        refused(engine, &format!("--network=container:{}", other.name()), "namespace");
    }
}
