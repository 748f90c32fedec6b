//! `process`: what is run, where and with what.

use crate::case::{cases, holds, same};
use crate::container::Container;
use crate::lab::Lab;
use anyhow::Result;
use serde_json::json;
use std::process::Stdio;

cases! {
    "process.args" => args, "config.md#process",
        "args has similar semantics to IEEE Std 1003.1-2008 execvp's argv";
    "process.args-searches-path" => args_searches_path, "config.md#process",
        "args[0] without a slash is searched in the PATH of env (execvp)";
    "process.args-absolute" => args_absolute, "config.md#process", "args[0] with a slash is a path";
    "process.missing-program" => missing_program, "runtime.md#start",
        "The runtime MUST run the user-specified program: one that does not exist is an error of create or start";
    "process.program-not-executable" => program_not_executable, "runtime.md#start",
        "The runtime MUST run the user-specified program: one that may not be executed is an error of create or start";
    "process.empty-args" => empty_args, "config.md#process", "args: one or more entries are REQUIRED";
    "process.env" => env, "config.md#process", "env has the same semantics as IEEE Std 1003.1-2008's environ";
    "process.env-is-not-inherited" => env_is_not_inherited, "config.md#process",
        "env is the environment of the process: not that of the runtime";
    "process.cwd" => cwd, "config.md#process", "cwd is the working directory that will be set for the executable";
    "process.cwd-relative" => cwd_relative, "config.md#process", "cwd: this value MUST be an absolute path";
    "process.many-env" => many_env, "config.md#process", "env: any number of variables";
    "process.streams" => streams, "config.md#process",
        "terminal defaults to false: the process has the streams that create was given";
    "process.personality" => personality, "config-linux.md#personality",
        "personality sets the Linux execution personality: LINUX32";
    "process.scheduler" => scheduler, "config.md#linux-process",
        "scheduler (object, OPTIONAL) describes the scheduler properties for the process: policy";
    "process.io-priority" => io_priority, "config.md#linux-process",
        "ioPriority (object, OPTIONAL) configures the I/O priority settings for the container's processes";
}

fn args(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let words = ["/bin/printf", "[%s]", "a b", "", "*", "$HOME", "ü\t", "-n"];
    bundle.program(&words);
    same("arguments", "[a b][][*][$HOME][ü\t][-n]", &lab.run(&bundle)?.ok()?.stdout)
}

fn args_searches_path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.file("opt/tools/tool", "#!/bin/sh\necho found\n", 0o755)?;
    bundle.set("/process/env", json!(["PATH=/no/such:/opt/tools"])).program(&["tool"]);
    same("output", "found\n", &lab.run(&bundle)?.ok()?.stdout)
}

fn args_absolute(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.file("opt/tool", "#!/bin/sh\necho found\n", 0o755)?.program(&["/opt/tool"]);
    same("output", "found\n", &lab.run(&bundle)?.ok()?.stdout)
}

/// Expects that the program cannot be run: `create` or `start` says so.
fn cannot_run(lab: &Lab, program: &str) -> Result<()> {
    let (mut bundle, id) = (lab.bundle()?, lab.id());
    bundle.file("opt/data", "no program", 0o644)?.program(&[program]);
    let (output, container) = Container::create(lab, &bundle, &id, &[])?;
    if output.code == 0 { container.start()?.refused().map(drop) } else { Ok(()) }
}

fn missing_program(lab: &Lab) -> Result<()> {
    cannot_run(lab, "/no/such/program")
}

fn program_not_executable(lab: &Lab) -> Result<()> {
    cannot_run(lab, "/opt/data")
}

fn empty_args(lab: &Lab) -> Result<()> {
    let (mut bundle, id) = (lab.bundle()?, lab.id());
    let (output, container) = Container::create(lab, bundle.program(&[]), &id, &[])?;
    if output.code == 0 { container.start()?.refused().map(drop) } else { Ok(()) }
}

fn env(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let variables = ["PATH=/bin", "EMPTY=", "BLANKS=a  b", "EQUALS=a=b", "lower_1=x"];
    let output = lab.run(bundle.set("/process/env", json!(variables)).program(&["env"]))?.ok()?.stdout;
    let missing: Vec<_> =
        variables.iter().filter(|variable| !output.lines().any(|line| line == **variable)).collect();
    holds("all of them", missing.is_empty(), format!("without {missing:?}: {output:?}"))
}

fn env_is_not_inherited(lab: &Lab) -> Result<()> {
    let (mut bundle, id) = (lab.bundle()?, lab.id());
    bundle.program(&["env"]);
    let out = lab.path().join("program.out");
    let mut create = lab.command(&["create", "--bundle", &bundle.path().to_string_lossy(), &id]);
    create
        .env("CONFORMANCE_OF_THE_HOST", "1")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(std::fs::File::create(&out)?);
    holds("create to succeed", create.status()?.success(), ())?;
    lab.call(&["start", &id])?.ok()?;
    crate::command::until("output of env", || {
        Ok(std::fs::read_to_string(&out)?.contains("PATH=").then_some(()))
    })?;
    let output = std::fs::read_to_string(&out)?;
    holds("no variable of the host", !output.contains("CONFORMANCE_OF_THE_HOST"), output)
}

fn cwd(lab: &Lab) -> Result<()> {
    let output = lab.script("pwd", |bundle| {
        bundle.set("/process/cwd", json!("/home/user"));
        Ok(())
    })?;
    same("directory", "/home/user", &output)
}

fn cwd_relative(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.set("/process/cwd", json!("home/user"))).map(drop)
}

fn many_env(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let variables: Vec<_> =
        (0..2000).map(|n| format!("VARIABLE_{n}={n}")).chain(["PATH=/bin".into()]).collect();
    bundle.set("/process/env", json!(variables)).script("env | grep -c ^VARIABLE_");
    same("variables", "2000\n", &lab.run(&bundle)?.ok()?.stdout)
}

fn streams(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.script("echo out; echo err >&2; cat; tty -s || echo no terminal");
    let output = lab.run(&bundle)?.ok()?;
    same("standard output", "out\nno terminal\n", &output.stdout)?;
    holds("`err` on standard error", output.stderr.ends_with("err\n"), output.stderr)
}

fn personality(lab: &Lab) -> Result<()> {
    let output = lab.script("uname -m", |bundle| {
        bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
        Ok(())
    })?;
    let expected = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    same("machine", expected, &output)
}

fn scheduler(lab: &Lab) -> Result<()> {
    // Field 41 of proc_pid_stat(5), counted from behind the name; 3 is SCHED_BATCH of <linux/sched.h>.
    let output = lab.script("sed 's/.*) //' /proc/self/stat | cut -d ' ' -f 39", |bundle| {
        bundle.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 0}));
        Ok(())
    })?;
    same("policy", "3", &output)
}

fn io_priority(lab: &Lab) -> Result<()> {
    let output = lab.script("ionice -p $$", |bundle| {
        bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
        Ok(())
    })?;
    same("priority", "best-effort: prio 6", &output)
}
