//! The state of a container.

use crate::case::{cases, holds, same};
use crate::command;
use crate::lab::Lab;
use anyhow::Result;
use rustix::process::{Pid, test_kill_process};
use serde_json::json;

cases! {
    "state.oci-version" => oci_version, "runtime.md#state",
        "ociVersion (string, REQUIRED) is the version of the specification with which the state complies";
    "state.id" => id, "runtime.md#state", "id (string, REQUIRED) is the container's ID";
    "state.status-created" => status_created, "runtime.md#state",
        "created: the runtime has finished the create operation, and the process has neither exited nor executed the program";
    "state.status-running" => status_running, "runtime.md#state",
        "running: the container process has executed the user-specified program but has not exited";
    "state.status-stopped" => status_stopped, "runtime.md#state", "stopped: the container process has exited";
    "state.pid-created" => pid_created, "runtime.md#state",
        "pid (int, REQUIRED when status is created or running on Linux) is the ID of the container process: created";
    "state.pid-running" => pid_running, "runtime.md#state",
        "pid (int, REQUIRED when status is created or running on Linux) is the ID of the container process: running";
    "state.bundle" => bundle, "runtime.md#state",
        "bundle (string, REQUIRED) is the absolute path to the container's bundle directory";
    "state.bundle-of-relative-path" => bundle_of_relative_path, "runtime.md#state",
        "bundle is the absolute path, also when create was given a relative one";
    "state.annotations" => annotations, "runtime.md#state",
        "annotations contains the list of annotations associated with the container";
    "state.no-annotations" => no_annotations, "runtime.md#state",
        "If no annotations were provided then this property MAY either be absent or an empty map";
}

fn oci_version(lab: &Lab) -> Result<()> {
    let state = lab.create(&lab.bundle()?)?.state()?;
    let version = state["ociVersion"].as_str().unwrap_or_default();
    holds("a version 1.x.y", is_version(version), &state["ociVersion"])
}

/// Whether this is a version 1.x.y, with or without a pre-release behind it.
pub fn is_version(text: &str) -> bool {
    let numbers: Vec<_> = text.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    numbers.len() == 3 && numbers[0] == "1" && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}

fn id(lab: &Lab) -> Result<()> {
    let container = lab.create(&lab.bundle()?)?;
    same("id", &json!(container.id), &container.state()?["id"])
}

fn status_created(lab: &Lab) -> Result<()> {
    same("status", "created", &lab.create(&lab.bundle()?)?.status()?)
}

fn status_running(lab: &Lab) -> Result<()> {
    same("status", "running", &lab.start(&lab.bundle()?)?.status()?)
}

fn status_stopped(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.start(bundle.program(&["true"]))?;
    container.wait()?;
    same("status", "stopped", &container.status()?)
}

fn is_alive(pid: &serde_json::Value) -> bool {
    let pid = pid.as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
}

fn pid_created(lab: &Lab) -> Result<()> {
    let container = lab.create(&lab.bundle()?)?;
    let state = container.state()?;
    holds("the ID of a process", is_alive(&state["pid"]), &state["pid"])?;
    same("pid, which the pid file has too", &json!(container.pid()?), &state["pid"])
}

fn pid_running(lab: &Lab) -> Result<()> {
    let container = lab.start(&lab.bundle()?)?;
    let state = container.state()?;
    holds("the ID of a process", is_alive(&state["pid"]), &state["pid"])?;
    same("pid, which the pid file has too", &json!(container.pid()?), &state["pid"])
}

fn bundle(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    same("bundle", &json!(bundle.path()), &lab.create(&bundle)?.state()?["bundle"])
}

fn bundle_of_relative_path(lab: &Lab) -> Result<()> {
    let (bundle, id) = (lab.bundle()?, lab.id());
    let mut create = lab.command(&["create", "--bundle", "."]);
    create.arg(&id).current_dir(bundle.path());
    command::run(&mut create, lab.path(), "relative")?.ok()?;
    let state: serde_json::Value = serde_json::from_str(&lab.call(&["state", &id])?.ok()?.stdout)?;
    same("bundle", &json!(bundle.path()), &state["bundle"])
}

fn annotations(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let annotations = json!({"org.example.key": "value with blanks", "other": ""});
    let container = lab.create(bundle.set("/annotations", annotations.clone()))?;
    let state = container.state()?;
    same(
        "annotation org.example.key",
        &annotations["org.example.key"],
        &state["annotations"]["org.example.key"],
    )?;
    same("annotation other", &annotations["other"], &state["annotations"]["other"])
}

fn no_annotations(lab: &Lab) -> Result<()> {
    let state = lab.create(&lab.bundle()?)?.state()?;
    let annotations = &state["annotations"];
    let none = annotations.is_null() || annotations.as_object().is_some_and(serde_json::Map::is_empty);
    holds("no annotations", none, annotations)
}
