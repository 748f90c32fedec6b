//! `hooks`: when they run, where, and with what.

use crate::bundle::Bundle;
use crate::case::{cases, holds, same};
use crate::lab::Lab;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

cases! {
    "hooks.prestart" => prestart, "config.md#prestart",
        "The prestart hooks MUST be called as part of the create operation after the runtime environment has been created";
    "hooks.create-runtime" => create_runtime, "config.md#createruntime-hooks",
        "The createRuntime hooks MUST be called as part of the create operation";
    "hooks.create-container" => create_container, "config.md#createcontainer-hooks",
        "The createContainer hooks MUST be called as part of the create operation";
    "hooks.create-container-path" => create_container_path, "config.md#createcontainer-hooks",
        "The value of path of createContainer hooks MUST resolve in the runtime namespace";
    "hooks.create-container-namespace" => create_container_namespace, "config.md#createcontainer-hooks",
        "createContainer hooks MUST be executed in the container namespace";
    "hooks.start-container" => start_container, "config.md#startcontainer-hooks",
        "The startContainer hooks MUST be called before the program is executed as part of the start operation, in the container";
    "hooks.poststart" => poststart, "config.md#poststart",
        "The poststart hooks MUST be called after the program is executed but before the start operation returns";
    "hooks.poststop" => poststop, "config.md#poststop",
        "The poststop hooks MUST be called after the container is deleted but before the delete operation returns";
    "hooks.poststop-after-resources" => poststop_after, "runtime.md#lifecycle",
        "The container is destroyed, then the poststop hooks MUST be invoked";
    "hooks.order-of-kinds" => order_of_kinds, "config.md#posix-platform-hooks",
        "Hooks run at their point of the lifecycle: prestart, createRuntime, createContainer, startContainer, poststart, poststop";
    "hooks.order-within-kind" => order_within_kind, "config.md#posix-platform-hooks", "Hooks MUST be called in the listed order";
    "hooks.args" => args, "config.md#posix-platform-hooks", "args has the same semantics as IEEE Std 1003.1-2008 execv's argv";
    "hooks.env" => env, "config.md#posix-platform-hooks", "env has the same semantics as IEEE Std 1003.1-2008's environ";
    "hooks.state-on-stdin" => state_on_stdin, "config.md#posix-platform-hooks",
        "The state of the container MUST be passed to hooks over stdin: id, pid, bundle";
    "hooks.state-version" => state_version, "config.md#posix-platform-hooks",
        "The state of the container MUST be passed to hooks over stdin: ociVersion, in SemVer v2.0.0 format";
    "hooks.state-annotations" => state_annotations, "config.md#posix-platform-hooks",
        "The state of the container MUST be passed to hooks over stdin: annotations";
    "hooks.status-prestart" => status_prestart, "runtime.md#state",
        "creating: the container is being created; the state that prestart gets";
    "hooks.status-create-runtime" => status_create_runtime, "runtime.md#state",
        "creating: the container is being created; the state that createRuntime gets";
    "hooks.status-start-container" => status_start_container, "runtime.md#state",
        "created: the state that startContainer gets";
    "hooks.status-poststart" => status_poststart, "runtime.md#state", "running: the state that poststart gets";
    "hooks.status-poststop" => status_poststop, "runtime.md#state", "stopped: the state that poststop gets";
    "hooks.runtime-namespace" => runtime_namespace, "config.md#createruntime-hooks",
        "createRuntime hooks MUST be executed in the runtime namespace";
    "hooks.start-container-namespace" => container_namespace, "config.md#startcontainer-hooks",
        "startContainer hooks MUST be executed in the container namespace: path resolves there";
}

/// Where hooks of the host write: `NAME` of the test's directory `log`.
fn log(lab: &Lab, name: &str) -> PathBuf {
    lab.path().join("log").join(name)
}

/// A bundle with that directory mounted at /log.
fn bundle(lab: &Lab) -> Result<Bundle> {
    let mut bundle = lab.bundle()?;
    let directory = log(lab, "");
    fs::create_dir_all(&directory)?;
    bundle.mount("/log", "bind", &directory.to_string_lossy(), &["rbind", "rw"]);
    Ok(bundle)
}

/// A hook of this kind that runs a shell script, in which `$LOG` is the directory.
pub fn hook(lab: &Lab, kind: &str, script: &str) -> Value {
    let directory = log(lab, "");
    // Where createContainer hooks see the root, before or after pivot_root, is left to the runtime.
    let script = format!("[ -d \"$LOG\" ] || LOG=/log; {script}");
    let directory = if kind == "startContainer" { "/log".into() } else { directory.to_string_lossy() };
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": [format!("LOG={directory}"), "PATH=/bin:/usr/bin"]})
}

/// Adds one.
fn add(lab: &Lab, bundle: &mut Bundle, kind: &str, script: &str) {
    bundle.push(&format!("/hooks/{kind}"), hook(lab, kind, script));
}

/// Expects that the hook has run after `create`, and not before `start`, or the like: whether its file is there after create, start, delete.
fn runs(lab: &Lab, kind: &str, expected: [bool; 3]) -> Result<()> {
    let mut bundle = bundle(lab)?;
    add(lab, &mut bundle, kind, "echo ran >$LOG/ran");
    let file = log(lab, "ran");
    let container = lab.create(bundle.program(&["true"]))?;
    let after_create = file.exists();
    container.start()?.ok()?;
    let after_start = file.exists();
    container.wait()?;
    container.delete()?.ok()?;
    same(
        "whether it has run after create, start, delete",
        &expected,
        &[after_create, after_start, file.exists()],
    )
}

fn prestart(lab: &Lab) -> Result<()> {
    runs(lab, "prestart", [true; 3])
}

fn create_runtime(lab: &Lab) -> Result<()> {
    runs(lab, "createRuntime", [true; 3])
}

fn create_container(lab: &Lab) -> Result<()> {
    runs(lab, "createContainer", [true; 3])
}

fn create_container_path(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    let program = log(lab, "hook");
    crate::bundle::write(&program, "#!/bin/sh\necho ran >\"$1\"\n", 0o755)?;
    let hook = json!({"path": program, "args": ["hook", log(lab, "ran")], "env": ["PATH=/bin:/usr/bin"]});
    lab.create(bundle.push("/hooks/createContainer", hook))?;
    same("whether the program of the host has run", &true, &log(lab, "ran").exists())
}

fn create_container_namespace(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    add(
        lab,
        &mut bundle,
        "createContainer",
        "for kind in mnt uts; do readlink /proc/self/ns/$kind; done >$LOG/namespaces",
    );
    lab.create(&bundle)?;
    let came = fs::read_to_string(log(lab, "namespaces"))?;
    for kind in ["mnt", "uts"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned();
        holds(
            &format!("another namespace than {host}"),
            came.contains(kind) && !came.contains(&host),
            &came,
        )?;
    }
    Ok(())
}

fn start_container(lab: &Lab) -> Result<()> {
    runs(lab, "startContainer", [false, true, true])
}

fn poststart(lab: &Lab) -> Result<()> {
    runs(lab, "poststart", [false, true, true])
}

fn poststop(lab: &Lab) -> Result<()> {
    runs(lab, "poststop", [false, false, true])
}

fn poststop_after(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    add(
        lab,
        &mut bundle,
        "poststop",
        "grep -o '\"pid\": *[0-9]*' >$LOG/pid; pid=$(tr -dc 0-9 <$LOG/pid); \
        test \"${pid:-0}\" != 0 && test -d /proc/$pid && echo alive >$LOG/alive; echo ran >$LOG/ran",
    );
    let container = lab.start(bundle.program(&["true"]))?;
    container.wait()?;
    container.delete()?.ok()?;
    same("whether the hook ran", &true, &log(lab, "ran").exists())?;
    same("whether the process was alive", &false, &log(lab, "alive").exists())
}

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn order_of_kinds(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    for kind in KINDS {
        add(lab, &mut bundle, kind, &format!("echo {kind} >>$LOG/order"));
    }
    lab.run(bundle.program(&["true"]))?;
    let order = fs::read_to_string(log(lab, "order"))?;
    same("order", &KINDS.to_vec(), &order.lines().collect())
}

fn order_within_kind(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    let hosts = ["prestart", "createRuntime", "poststart", "poststop"];
    for (kind, number) in hosts.iter().flat_map(|kind| (1..=3).map(move |number| (kind, number))) {
        add(lab, &mut bundle, kind, &format!("echo {kind} {number} >>$LOG/order"));
    }
    lab.run(bundle.program(&["true"]))?;
    let expected: Vec<_> =
        hosts.iter().flat_map(|kind| (1..=3).map(move |number| format!("{kind} {number}"))).collect();
    same("order", &expected.join("\n"), &fs::read_to_string(log(lab, "order"))?.trim().to_owned())
}

fn args(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    let script = format!("printf '[%s]' \"$0\" \"$@\" >'{}'", log(lab, "args").display());
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "a b", "", "*"], "env": ["PATH=/bin:/usr/bin"]});
    lab.create(bundle.push("/hooks/createRuntime", hook))?;
    same("arguments", "[zero][a b][][*]", &fs::read_to_string(log(lab, "args"))?)
}

fn env(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    let script = format!("env >'{}'", log(lab, "env").display());
    let hook =
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", "OWN=a b"]});
    lab.create(bundle.push("/hooks/createRuntime", hook))?;
    let env = fs::read_to_string(log(lab, "env"))?;
    let allowed = ["PATH=/bin:/usr/bin", "OWN=a b"];
    let ours = |line: &str| ["PWD=", "SHLVL=", "OLDPWD=", "_="].iter().any(|name| line.starts_with(name));
    holds("its variables", allowed.iter().all(|variable| env.lines().any(|line| line == *variable)), &env)?;
    holds("no other ones", env.lines().all(|line| ours(line) || allowed.contains(&line)), &env)
}

/// The state that a hook of this kind gets, and the container's ID.
fn state_of(lab: &Lab, kind: &str, change: impl FnOnce(&mut Bundle)) -> Result<(Value, String)> {
    let mut bundle = bundle(lab)?;
    add(lab, &mut bundle, kind, "cat >$LOG/state");
    change(bundle.program(&["sleep", "0.1"]));
    let container = lab.start(&bundle)?;
    container.wait()?;
    container.delete()?.ok()?;
    let text = fs::read_to_string(log(lab, "state")).context("the hook has written nothing")?;
    let state = serde_json::from_str(&text).with_context(|| format!("its input is no JSON: {text:?}"))?;
    Ok((state, container.id))
}

fn state_on_stdin(lab: &Lab) -> Result<()> {
    let (state, id) = state_of(lab, "createRuntime", |_| ())?;
    same("id", &json!(id), &state["id"])?;
    holds("a bundle", state["bundle"].as_str().is_some_and(|bundle| bundle.starts_with('/')), &state)?;
    holds("a process ID", state["pid"].as_i64().is_some_and(|pid| pid > 0), &state)
}

fn state_version(lab: &Lab) -> Result<()> {
    let (state, _) = state_of(lab, "createRuntime", |_| ())?;
    let version = &state["ociVersion"];
    holds("a version 1.x.y", super::state::is_version(version.as_str().unwrap_or_default()), version)
}

fn state_annotations(lab: &Lab) -> Result<()> {
    let annotations = json!({"org.example.key": "value"});
    let (state, _) =
        state_of(lab, "createRuntime", |bundle| _ = bundle.set("/annotations", annotations.clone()))?;
    same("annotation", &json!("value"), &state["annotations"]["org.example.key"])
}

fn status_is(lab: &Lab, kind: &str, status: &str) -> Result<()> {
    same("status", &json!(status), &state_of(lab, kind, |_| ())?.0["status"])
}

fn status_prestart(lab: &Lab) -> Result<()> {
    status_is(lab, "prestart", "creating")
}

fn status_create_runtime(lab: &Lab) -> Result<()> {
    status_is(lab, "createRuntime", "creating")
}

fn status_start_container(lab: &Lab) -> Result<()> {
    status_is(lab, "startContainer", "created")
}

fn status_poststart(lab: &Lab) -> Result<()> {
    status_is(lab, "poststart", "running")
}

fn status_poststop(lab: &Lab) -> Result<()> {
    status_is(lab, "poststop", "stopped")
}

fn runtime_namespace(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    add(
        lab,
        &mut bundle,
        "createRuntime",
        "for kind in pid net; do readlink /proc/self/ns/$kind; done >$LOG/namespaces",
    );
    lab.create(&bundle)?;
    let link = |kind: &str| {
        Ok::<_, std::io::Error>(
            fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned(),
        )
    };
    let expected = format!("{}\n{}\n", link("pid")?, link("net")?);
    same("namespaces of the hook", &expected, &fs::read_to_string(log(lab, "namespaces"))?)
}

fn container_namespace(lab: &Lab) -> Result<()> {
    let mut bundle = bundle(lab)?;
    bundle.file("opt/hook", "#!/bin/sh\nhostname >/log/hostname\n", 0o755)?;
    bundle
        .push("/hooks/startContainer", json!({"path": "/opt/hook", "args": ["hook"], "env": ["PATH=/bin"]}));
    lab.run(bundle.program(&["true"]))?;
    same("hostname that the hook sees", "conformance\n", &fs::read_to_string(log(lab, "hostname"))?)
}
