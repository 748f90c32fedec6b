//! The five operations and their errors.

use crate::case::{cases, holds, same};
use crate::container::Container;
use crate::lab::Lab;
use anyhow::Result;
use serde_json::Value;
use std::fs;

cases! {
    "state.no-id" => state_no_id, "runtime.md#query-state",
        "This operation MUST generate an error if it is not provided the ID of a container";
    "state.unknown-id" => state_unknown_id, "runtime.md#query-state",
        "Attempting to query a container that does not exist MUST generate an error";
    "create.no-id" => create_no_id, "runtime.md#create",
        "This operation MUST generate an error if it is not provided a path to the bundle and the container ID";
    "create.no-bundle" => create_no_bundle, "runtime.md#create",
        "This operation MUST generate an error if it is not provided a path to the bundle: one that does not exist";
    "create.no-config" => create_no_config, "runtime.md#create",
        "Using the data in config.json, this operation MUST create a new container: without the file it cannot";
    "create.config-is-no-json" => create_config_is_no_json, "config.md#configuration",
        "The configuration file is JSON: anything else is an error";
    "create.duplicate-id" => create_duplicate_id, "runtime.md#create",
        "If the ID provided is not unique across all containers within the scope of the runtime, MUST generate an error";
    "create.invalid-id" => create_invalid_id, "runtime.md#create",
        "If the ID provided is not valid in any other way, the implementation MUST generate an error and a new container MUST NOT be created";
    "create.without-process" => create_without_process, "config.md#process",
        "process (object, OPTIONAL); this property is REQUIRED when start is called: create does without";
    "start.without-process" => start_without_process, "runtime.md#start",
        "This operation MUST generate an error if process was not set";
    "start.no-id" => start_no_id, "runtime.md#start",
        "This operation MUST generate an error if it is not provided the container ID";
    "start.unknown-id" => start_unknown_id, "runtime.md#start",
        "Attempting to start a container that does not exist MUST generate an error";
    "start.running" => start_running, "runtime.md#start",
        "Attempting to start a container that is not created MUST have no effect on the container and MUST generate an error: running";
    "start.stopped" => start_stopped, "runtime.md#start",
        "Attempting to start a container that is not created MUST have no effect on the container and MUST generate an error: stopped";
    "kill.no-id" => kill_no_id, "runtime.md#kill",
        "This operation MUST generate an error if it is not provided the container ID";
    "kill.unknown-id" => kill_unknown_id, "runtime.md#kill",
        "Attempting to send a signal to a container that does not exist is an error";
    "kill.stopped" => kill_stopped, "runtime.md#kill",
        "Attempting to send a signal to a container that is neither created nor running MUST have no effect and MUST generate an error";
    "kill.created" => kill_created, "runtime.md#kill",
        "A container that is created gets the signal";
    "kill.sends-the-signal" => kill_sends_the_signal, "runtime.md#kill",
        "This operation MUST send the specified signal to the container process: by name";
    "kill.number" => kill_number, "runtime.md#kill",
        "This operation MUST send the specified signal to the container process: by number";
    "kill.ends-the-process" => kill_ends_the_process, "runtime.md#kill",
        "A process that a signal ends is stopped: exit code 137, status stopped";
    "delete.no-id" => delete_no_id, "runtime.md#delete",
        "This operation MUST generate an error if it is not provided the container ID";
    "delete.unknown-id" => delete_unknown_id, "runtime.md#delete",
        "Attempting to delete a container that does not exist MUST generate an error";
    "delete.running" => delete_running, "runtime.md#delete",
        "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error: running";
    "delete.created" => delete_created, "runtime.md#delete",
        "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error: created";
    "delete.unknown-afterwards" => delete_unknown_afterwards, "runtime.md#delete",
        "Deleting a container MUST delete the resources that were created during the create step: its state";
    "delete.keeps-what-it-did-not-make" => delete_keeps, "runtime.md#delete",
        "Resources associated with the container, but not created by this container, MUST NOT be deleted";
    "delete.id-can-be-used-again" => delete_id_again, "runtime.md#delete",
        "Once a container is deleted its ID MAY be used by a subsequent container";
}

const UNKNOWN: &str = "no-such-container";

fn refused(lab: &Lab, words: &[&str]) -> Result<()> {
    lab.call(words)?.refused().map(drop)
}

fn state_no_id(lab: &Lab) -> Result<()> {
    refused(lab, &["state"])
}

fn state_unknown_id(lab: &Lab) -> Result<()> {
    refused(lab, &["state", UNKNOWN])
}

fn create_no_id(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    refused(lab, &["create", "--bundle", &bundle.path().to_string_lossy()])
}

fn create_no_bundle(lab: &Lab) -> Result<()> {
    let id = lab.id();
    refused(lab, &["create", "--bundle", "/no/such/bundle", &id])?;
    refused(lab, &["state", &id])
}

fn create_no_config(lab: &Lab) -> Result<()> {
    let (bundle, id) = (lab.bundle()?, lab.id());
    let path = bundle.path().to_string_lossy().into_owned();
    fs::remove_file(bundle.path().join("config.json"))?;
    refused(lab, &["create", "--bundle", &path, &id])?;
    refused(lab, &["state", &id])
}

fn create_config_is_no_json(lab: &Lab) -> Result<()> {
    let (bundle, id) = (lab.bundle()?, lab.id());
    let path = bundle.path().to_string_lossy().into_owned();
    fs::write(bundle.path().join("config.json"), "{\"ociVersion\": ")?;
    refused(lab, &["create", "--bundle", &path, &id])?;
    refused(lab, &["state", &id])
}

fn create_duplicate_id(lab: &Lab) -> Result<()> {
    let first = lab.start(&lab.bundle()?)?;
    let before = first.state()?;
    let (output, _) = Container::create(lab, &lab.bundle()?, &first.id, &[])?;
    output.refused()?;
    let after = first.state()?;
    for key in ["status", "pid", "bundle"] {
        same(&format!("{key} of the first container"), &before[key], &after[key])?;
    }
    Ok(())
}

fn create_invalid_id(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    let path = bundle.path().to_string_lossy().into_owned();
    for id in ["", "a/b", "../escape", ".."] {
        let output = lab.call(&["create", "--bundle", &path, id])?;
        if output.code == 0 {
            lab.call(&["delete", "--force", id])?;
        }
        output.refused()?;
    }
    same("whether the ID led out of the root", &false, &lab.path().join("escape").exists())
}

fn create_without_process(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config.as_object_mut().map(|config| config.remove("process"));
    same("status", "created", &lab.create(&bundle)?.status()?)
}

fn start_without_process(lab: &Lab) -> Result<()> {
    let (mut bundle, id) = (lab.bundle()?, lab.id());
    bundle.config.as_object_mut().map(|config| config.remove("process"));
    let (output, container) = Container::create(lab, &bundle, &id, &[])?;
    // A runtime may find it out at once.
    if output.code == 0 { container.start()?.refused().map(drop) } else { Ok(()) }
}

fn start_no_id(lab: &Lab) -> Result<()> {
    refused(lab, &["start"])
}

fn start_unknown_id(lab: &Lab) -> Result<()> {
    refused(lab, &["start", UNKNOWN])
}

fn start_running(lab: &Lab) -> Result<()> {
    let container = lab.start(&lab.bundle()?)?;
    let pid = container.state()?["pid"].clone();
    container.start()?.refused()?;
    let state = container.state()?;
    same("status", &Value::from("running"), &state["status"])?;
    same("pid", &pid, &state["pid"])
}

fn start_stopped(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.start(bundle.program(&["echo", "once"]))?;
    container.wait()?;
    container.start()?.refused()?;
    same("status", "stopped", &container.status()?)?;
    same("output", "once\n", &container.stdout()?)
}

fn kill_no_id(lab: &Lab) -> Result<()> {
    refused(lab, &["kill"])
}

fn kill_unknown_id(lab: &Lab) -> Result<()> {
    refused(lab, &["kill", UNKNOWN, "KILL"])
}

fn kill_stopped(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.start(bundle.program(&["true"]))?;
    container.wait()?;
    container.kill("KILL")?.refused()?;
    same("status", "stopped", &container.status()?)
}

fn kill_created(lab: &Lab) -> Result<()> {
    let container = lab.create(&lab.bundle()?)?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")
}

/// Sends a signal that the program catches, and expects what it says then.
fn kill_is_caught(lab: &Lab, signal: &str, name: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let script = format!("trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done");
    let container = lab.start(bundle.script(&script))?;
    container.wait_for_output("ready")?;
    container.kill(signal)?.ok()?;
    same("exit code", &9, &container.wait()?)?;
    let stdout = container.stdout()?;
    holds("the signal's name", stdout.ends_with(&format!("got {name}\n")), stdout)
}

fn kill_sends_the_signal(lab: &Lab) -> Result<()> {
    kill_is_caught(lab, "TERM", "TERM")
}

fn kill_number(lab: &Lab) -> Result<()> {
    kill_is_caught(lab, "10", "USR1")
}

fn kill_ends_the_process(lab: &Lab) -> Result<()> {
    let container = lab.start(&lab.bundle()?)?;
    container.kill("KILL")?.ok()?;
    same("exit code", &137, &container.wait()?)?;
    same("status", "stopped", &container.status()?)
}

fn delete_no_id(lab: &Lab) -> Result<()> {
    refused(lab, &["delete"])
}

fn delete_unknown_id(lab: &Lab) -> Result<()> {
    refused(lab, &["delete", UNKNOWN])
}

fn delete_running(lab: &Lab) -> Result<()> {
    let container = lab.start(&lab.bundle()?)?;
    container.delete()?.refused()?;
    same("status", "running", &container.status()?)
}

fn delete_created(lab: &Lab) -> Result<()> {
    let container = lab.create(&lab.bundle()?)?;
    container.delete()?.refused()?;
    same("status", "created", &container.status()?)
}

fn delete_unknown_afterwards(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.start(bundle.program(&["true"]))?;
    container.wait()?;
    container.delete()?.ok()?;
    container.state_refused()?;
    container.delete()?.refused().map(drop)
}

fn delete_keeps(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let source = lab.path().join("kept");
    crate::bundle::write(&source.join("file"), "content", 0o644)?;
    bundle
        .mount("/data", "bind", &source.to_string_lossy(), &["rbind", "rw"])
        .script("echo more >/data/other; echo x >/kept");
    lab.run(&bundle)?;
    same("the file that was there", "content", &fs::read_to_string(source.join("file"))?)?;
    same("what the program wrote there", "more\n", &fs::read_to_string(source.join("other"))?)?;
    same("what the program wrote to its root", "x\n", &fs::read_to_string(bundle.rootfs("kept"))?)
}

fn delete_id_again(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let id = lab.id();
    for _ in 0..2 {
        let (output, container) = Container::create(lab, bundle.program(&["true"]), &id, &[])?;
        output.ok()?;
        container.start()?.ok()?;
        container.wait()?;
        container.delete()?.ok()?;
    }
    Ok(())
}
