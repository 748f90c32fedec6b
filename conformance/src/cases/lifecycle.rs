//! What happens when in a container's life.

use crate::bundle::Bundle;
use crate::case::{cases, holds, same};
use crate::lab::Lab;
use anyhow::Result;
use serde_json::json;
use std::fs;

cases! {
    "lifecycle.create-runs-no-program" => create_runs_no_program, "runtime.md#lifecycle",
        "While the resources requested in the config.json MUST be created, the user-specified program MUST NOT be run at this time";
    "lifecycle.config-edit-after-create" => config_edit_after_create, "runtime.md#lifecycle",
        "Any updates to config.json after this step MUST NOT affect the container";
    "lifecycle.config-removed-after-create" => config_removed_after_create, "runtime.md#lifecycle",
        "Any updates to config.json after this step MUST NOT affect the container: its removal";
    "lifecycle.failed-create-is-an-error" => failed_create_is_an_error, "runtime.md#lifecycle",
        "If the runtime is unable to create the environment specified in the config.json, it MUST generate an error";
    "lifecycle.failed-create-leaves-nothing" => failed_create_leaves_nothing, "runtime.md#errors",
        "Generating an error MUST leave the state of the environment as if the operation were never attempted";
    "lifecycle.exit-code-zero" => exit_code_zero, "runtime.md#lifecycle", "The container process exits: with code 0";
    "lifecycle.exit-code" => exit_code, "runtime.md#lifecycle", "The container process exits: with another code";
    "lifecycle.crash" => crash, "runtime.md#lifecycle",
        "The container process exits. This MAY happen due to erroring out, exiting, crashing or the runtime's kill operation";
    "lifecycle.delete-undoes-create" => delete_undoes_create, "runtime.md#lifecycle",
        "The container MUST be destroyed by undoing the steps performed during create phase";
    "lifecycle.same-bundle-twice" => same_bundle_twice, "runtime.md#lifecycle",
        "The container MUST be destroyed by undoing the steps performed during create phase: the bundle can be used again";
    "lifecycle.two-containers" => two_containers, "runtime.md#state",
        "id MUST be unique across all containers on this host: two containers with two IDs live side by side";
}

/// A bundle whose program leaves a file in a directory of the host.
fn leaves_a_file(lab: &Lab) -> Result<Bundle> {
    let mut bundle = lab.bundle()?;
    fs::create_dir_all(lab.path().join("shared"))?;
    let source = lab.path().join("shared").to_string_lossy().into_owned();
    bundle.script("touch /shared/ran").mount("/shared", "bind", &source, &["rbind", "rw"]);
    Ok(bundle)
}

fn create_runs_no_program(lab: &Lab) -> Result<()> {
    let bundle = leaves_a_file(lab)?;
    let container = lab.create(&bundle)?;
    // Time for a program to run that must not.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let file = lab.path().join("shared/ran");
    same("whether the program has run after create", &false, &file.exists())?;
    container.start()?.ok()?;
    container.wait()?;
    same("whether the program has run after start", &true, &file.exists())
}

fn config_edit_after_create(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.create(bundle.script("echo old"))?;
    bundle.script("echo new").write()?;
    container.start()?.ok()?;
    container.wait()?;
    same("output", "old\n", &container.stdout()?)
}

fn config_removed_after_create(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.create(bundle.script("echo old"))?;
    fs::remove_file(lab.path().join(bundle.path()).join("config.json"))?;
    container.start()?.ok()?;
    container.wait()?;
    same("output", "old\n", &container.stdout()?)?;
    container.delete()?.ok().map(drop)
}

fn failed_create_is_an_error(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.mount("/mnt", "bind", "/no/such/directory", &["rbind"]);
    lab.create_refused(&bundle).map(drop)
}

fn failed_create_leaves_nothing(lab: &Lab) -> Result<()> {
    let (mut bundle, id) = (lab.bundle()?, lab.id());
    bundle.mount("/mnt", "bind", "/no/such/directory", &["rbind"]);
    let create = |bundle: &Bundle| lab.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id]);
    create(&bundle)?.refused()?;
    let left: Vec<_> =
        fs::read_dir(lab.root()).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    holds("no directory of the container", left.iter().all(|name| *name != *id), &left)?;
    create(&lab.bundle()?)?.ok().map(drop)
}

fn exit_code_zero(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    same("exit code", &0, &lab.run(bundle.program(&["true"]))?.code)
}

fn exit_code(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    same("exit code", &42, &lab.run(bundle.script("exit 42"))?.code)
}

fn crash(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    // A PID namespace's first process cannot kill itself, so its child does.
    let output = lab.run(bundle.script("sh -c 'kill -SEGV $$'; echo $?"))?;
    same("exit code of a program that crashed", "139", output.stdout.trim())
}

fn delete_undoes_create(lab: &Lab) -> Result<()> {
    let mounts = || fs::read_to_string("/proc/self/mountinfo");
    let mut bundle = lab.bundle()?;
    let before = mounts()?;
    lab.run(bundle.program(&["true"]))?;
    same("mounts of the host", &before, &mounts()?)?;
    let left: Vec<_> =
        fs::read_dir(lab.root()).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    holds(
        "no directory of the container",
        left.iter().all(|name| !name.to_string_lossy().contains("conformance")),
        &left,
    )
}

fn same_bundle_twice(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.script("echo again");
    same("first output", "again\n", &lab.run(&bundle)?.stdout)?;
    same("second output", "again\n", &lab.run(&bundle)?.stdout)
}

fn two_containers(lab: &Lab) -> Result<()> {
    let (mut one, mut two) = (lab.bundle()?, lab.bundle()?);
    one.set("/hostname", json!("one")).script("hostname; sleep 1000");
    two.set("/hostname", json!("two")).script("hostname; sleep 1000");
    let (one, two) = (lab.start(&one)?, lab.start(&two)?);
    one.wait_for_output("one\n")?;
    two.wait_for_output("two\n")?;
    one.kill("KILL")?.ok()?;
    one.wait()?;
    same("status of the other one", "running", &two.status()?)
}
