//! `linux.resources` and `linux.cgroupsPath`.

use crate::case::{cases, holds, same, skip};
use crate::lab::Lab;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

cases! {
    "resources.memory-limit" => memory_limit, "config-linux.md#memory", "limit sets limit of memory usage: seen inside";
    "resources.memory-enforced" => memory_enforced, "config-linux.md#memory",
        "tasks that attempt to consume more memory than they are allowed are immediately killed by the OOM killer";
    "resources.pids-limit" => pids_limit, "config-linux.md#pids", "limit specifies the maximum number of tasks in the cgroup: seen inside";
    "resources.pids-enforced" => pids_enforced, "config-linux.md#pids", "limit specifies the maximum number of tasks in the cgroup: no more are made";
    "resources.cpu-quota" => cpu_quota, "config-linux.md#cpu",
        "quota specifies the total amount of time in microseconds that all tasks can run during one period";
    "resources.cpu-shares" => cpu_shares, "config-linux.md#cpu", "shares specifies a relative share of CPU time";
    "resources.cpus" => cpus, "config-linux.md#cpu", "cpus is the list of CPUs the container will run on";
    "resources.unified-unknown" => unified_unknown, "config-linux.md#unified",
        "The OCI runtime MUST error out when it cannot set a parameter of unified";
    "cgroups.path" => path, "config-linux.md#cgroups-path",
        "In the case of an absolute path, the runtime MUST take the path to be relative to the cgroups mount point";
    "cgroups.path-is-removed" => path_is_removed, "runtime.md#delete",
        "Deleting a container MUST delete the resources that were created during the create step: its control group";
    "cgroups.mount" => mount, "config-linux.md#control-groups", "A mount of type cgroup shows the container's control groups";
}

/// First line of the first of these files that the container has below its control group mount.
fn with_resources(lab: &Lab, resources: Value, files: &[&str]) -> Result<String> {
    let script = files
        .iter()
        .map(|file| format!("cat /sys/fs/cgroup/{file} 2>/dev/null"))
        .collect::<Vec<_>>()
        .join(" || ");
    lab.script(&script, |bundle| {
        bundle.namespace(&json!({"type": "cgroup"})).set("/linux/resources", resources);
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
        Ok(())
    })
}

fn memory_limit(lab: &Lab) -> Result<()> {
    let files = ["memory/memory.limit_in_bytes", "memory.max"];
    let came = with_resources(lab, json!({"memory": {"limit": 67_108_864}}), &files)?;
    same("bytes", "67108864", &came)
}

fn memory_enforced(lab: &Lab) -> Result<()> {
    let script = "dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; echo $?";
    let output = lab.script(script, |bundle| {
        bundle.set("/linux/resources/memory", json!({"limit": 33_554_432, "swap": 33_554_432}));
        Ok(())
    })?;
    same("exit code of a program that needs 100 MiB of 32", "137", &output)
}

fn pids_limit(lab: &Lab) -> Result<()> {
    same("tasks", "23", &with_resources(lab, json!({"pids": {"limit": 23}}), &["pids/pids.max", "pids.max"])?)
}

fn pids_enforced(lab: &Lab) -> Result<()> {
    let script = "i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done 2>/dev/null; echo all";
    let mut bundle = lab.bundle()?;
    bundle.set("/linux/resources/pids", json!({"limit": 20})).script(script);
    let output = lab.run(&bundle)?;
    holds("a fork that fails", !output.stdout.contains("all"), output.stdout)
}

fn cpu_quota(lab: &Lab) -> Result<()> {
    let resources = json!({"cpu": {"quota": 25000, "period": 50000}});
    let came = with_resources(lab, resources, &["cpu/cpu.cfs_quota_us", "cpu.max"])?;
    holds("25000 of 50000", came == "25000" || came == "25000 50000", came)
}

fn cpu_shares(lab: &Lab) -> Result<()> {
    let came = with_resources(lab, json!({"cpu": {"shares": 512}}), &["cpu/cpu.shares", "cpu.weight"])?;
    // Version 2 has weights; runtimes of different years convert in two ways.
    holds("512 shares, weight 20 or 59", ["512", "20", "59"].contains(&came.as_str()), came)
}

fn cpus(lab: &Lab) -> Result<()> {
    let output = lab.script("grep Cpus_allowed_list /proc/self/status", |bundle| {
        bundle.set("/linux/resources/cpu", json!({"cpus": "0"}));
        Ok(())
    })?;
    same("CPUs", "Cpus_allowed_list:\t0", &output)
}

fn unified_unknown(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.set("/linux/resources/unified", json!({"no_such.parameter": "1"}))).map(drop)
}

/// Directories of the host's control groups that have this path.
fn groups(path: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(top.to_owned())
        .chain(hierarchies)
        .map(|top| top.join(path))
        .filter(|path| path.is_dir())
        .collect()
}

fn path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let name = format!("conformance-path-{}", std::process::id());
    bundle.set("/linux/cgroupsPath", json!(format!("/{name}/below")));
    let container = lab.start(&bundle)?;
    let pid = container.pid()?.to_string();
    let groups = groups(&format!("{name}/below"));
    let inside = |group: &&PathBuf| {
        let tasks = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        tasks.lines().any(|line| line == pid)
    };
    let found = groups.iter().filter(inside).count();
    container.kill("KILL")?.ok()?;
    container.wait()?;
    container.delete()?.ok()?;
    // Runtimes may leave the parent, which another container may use.
    self::groups(&name).iter().try_for_each(fs::remove_dir).context("removing the parent control group")?;
    holds("the container's process in control groups of this path", found > 0, groups)
}

fn path_is_removed(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let name = format!("conformance-removed-{}", std::process::id());
    bundle.set("/linux/cgroupsPath", json!(format!("/{name}"))).program(&["true"]);
    let container = lab.create(&bundle)?;
    if groups(&name).is_empty() {
        return Err(skip("no control group of this path while the container is there; see cgroups.path"));
    }
    container.start()?.ok()?;
    container.wait()?;
    container.delete()?.ok()?;
    same("control groups that are left", &Vec::<PathBuf>::new(), &groups(&name))
}

fn mount(lab: &Lab) -> Result<()> {
    let came = with_resources(lab, json!({}), &["pids/cgroup.procs", "cgroup.procs"])?;
    holds("process 1", came.lines().any(|line| line == "1"), came)
}
