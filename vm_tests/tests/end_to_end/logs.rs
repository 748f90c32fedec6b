//! `--log`, `--log-format`, `--debug`.

use serde_json::Value;
use std::fs;
use vm_tests::Sandbox;

#[test]
fn an_error_is_a_json_line_in_the_log_and_a_line_on_standard_error() {
    let sandbox = Sandbox::new();
    let log = sandbox.path().join("log.json");
    let flags = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let line = sandbox.cor(&[&flags[..], &["state", "nobody"]].concat()).run().refused("does not exist");
    sandbox.cor(&[&flags[..], &["start", "nobody"]].concat()).run().refused("does not exist");
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 2, "appended: {text}");
    let entry: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(entry["level"], "error");
    assert_eq!(entry["msg"].as_str().map(|msg| format!("cor: {msg}")), Some(line));
    assert!(entry["time"].as_str().unwrap().starts_with("20"));
}

#[test]
fn with_a_log_standard_error_stays_the_containers() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("echo its own >&2");
    let log = sandbox.path().join("log");
    let output = sandbox
        .cor(&["--log", log.to_str().unwrap(), "run", "--bundle"])
        .arg(bundle.path())
        .arg(sandbox.id())
        .run();
    assert_eq!(output.expect(0).errors(), "its own\n");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.lines().all(|line| line.starts_with("time=") && line.contains(" level=")), "{text}");
}

#[test]
fn a_log_that_cannot_be_written_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.cor(&["--log", "/no/such/dir/log", "list"]).run().refused("/no/such/dir/log");
}
