//! `hooks`: what their failure leads to.

use super::hooks::hook;
use crate::case::{cases, same};
use crate::command;
use crate::container::Container;
use crate::lab::Lab;
use anyhow::Result;
use serde_json::json;
use std::fs;

cases! {
    "hooks.prestart-fails" => prestart, "runtime.md#lifecycle",
        "If any prestart hook fails, the runtime MUST generate an error and stop and destroy the container";
    "hooks.create-runtime-fails" => create_runtime, "runtime.md#lifecycle",
        "If any createRuntime hook fails, the runtime MUST generate an error and stop and destroy the container";
    "hooks.create-container-fails" => create_container, "runtime.md#lifecycle",
        "If any createContainer hook fails, the runtime MUST generate an error and stop and destroy the container";
    "hooks.start-container-fails" => start_container, "runtime.md#lifecycle",
        "If any startContainer hook fails, the runtime MUST generate an error; the program is not run";
    "hooks.poststart-fails" => poststart, "runtime.md#lifecycle",
        "If any poststart hook fails, the runtime MUST generate an error and stop the container (1.3)";
    "hooks.poststop-fails" => poststop, "runtime.md#lifecycle",
        "If any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue";
    "hooks.failure-runs-poststop" => failure_runs_poststop, "runtime.md#lifecycle",
        "If a createRuntime hook fails, the lifecycle continues with destroying the container and the poststop hooks";
    "hooks.failure-ends-the-list" => failure_ends_the_list, "runtime.md#lifecycle",
        "If a hook fails, the runtime stops the container: hooks behind it do not run";
    "hooks.timeout" => timeout, "config.md#posix-platform-hooks",
        "timeout is the number of seconds before aborting the hook: it counts as failed then";
    "hooks.missing-program" => missing_program, "config.md#posix-platform-hooks", "A hook whose program does not exist fails";
    "hooks.signal" => signal, "runtime.md#lifecycle", "A hook that a signal ends fails";
}

/// Expects that `create` fails with this hook and leaves nothing.
fn create_fails(lab: &Lab, kind: &str, script: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.push(&format!("/hooks/{kind}"), hook(lab, kind, script));
    lab.create_refused(&bundle).map(drop)
}

fn prestart(lab: &Lab) -> Result<()> {
    create_fails(lab, "prestart", "exit 3")
}

fn create_runtime(lab: &Lab) -> Result<()> {
    create_fails(lab, "createRuntime", "exit 3")
}

fn create_container(lab: &Lab) -> Result<()> {
    create_fails(lab, "createContainer", "exit 3")
}

fn signal(lab: &Lab) -> Result<()> {
    create_fails(lab, "createRuntime", "kill -KILL $$")
}

/// Expects that the container does not run: it is stopped or gone.
fn does_not_run(container: &Container<'_>) -> Result<()> {
    command::until("the container to be stopped or gone", || {
        let output = container.call(&["state"])?;
        let stopped = output.code != 0 || output.stdout.contains("\"stopped\"");
        Ok(stopped.then_some(()))
    })
}

fn start_container(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle
        .push("/hooks/startContainer", hook(lab, "startContainer", "exit 3"))
        .script("echo ran >/ran; sleep 1000");
    let container = lab.create(&bundle)?;
    container.start()?.refused()?;
    does_not_run(&container)?;
    same("whether the program has run", &false, &bundle.rootfs("ran").exists())
}

fn poststart(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.create(bundle.push("/hooks/poststart", hook(lab, "poststart", "exit 3")))?;
    container.start()?.refused()?;
    does_not_run(&container)
}

fn poststop(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::create_dir_all(lab.path().join("log"))?;
    bundle.push("/hooks/poststop", hook(lab, "poststop", "exit 3"));
    bundle.push("/hooks/poststop", hook(lab, "poststop", "echo ran >$LOG/ran")).program(&["true"]);
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.delete()?.ok()?;
    container.state_refused()?;
    same("whether the second hook has run", &true, &lab.path().join("log/ran").exists())
}

fn failure_runs_poststop(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::create_dir_all(lab.path().join("log"))?;
    bundle.push("/hooks/createRuntime", hook(lab, "createRuntime", "exit 3"));
    bundle.push("/hooks/poststop", hook(lab, "poststop", "echo ran >$LOG/ran"));
    lab.create_refused(&bundle)?;
    same("whether the poststop hook has run", &true, &lab.path().join("log/ran").exists())
}

fn failure_ends_the_list(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::create_dir_all(lab.path().join("log"))?;
    bundle.push("/hooks/createRuntime", hook(lab, "createRuntime", "exit 3"));
    bundle.push("/hooks/createRuntime", hook(lab, "createRuntime", "echo ran >$LOG/ran"));
    lab.create_refused(&bundle)?;
    same("whether the second hook has run", &false, &lab.path().join("log/ran").exists())
}

fn timeout(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let mut hook = hook(lab, "createRuntime", "exec sleep 1000");
    hook["timeout"] = json!(1);
    lab.create_refused(bundle.push("/hooks/createRuntime", hook)).map(drop)
}

fn missing_program(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let hook = json!({"path": "/no/such/hook", "args": ["hook"]});
    lab.create_refused(bundle.push("/hooks/createRuntime", hook)).map(drop)
}
