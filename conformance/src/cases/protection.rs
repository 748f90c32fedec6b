//! `linux.maskedPaths`, `readonlyPaths`, `sysctl`.

use crate::case::{cases, holds, same};
use crate::lab::Lab;
use anyhow::Result;
use serde_json::{Value, json};

cases! {
    "masked.file" => masked_file, "config-linux.md#masked-paths",
        "maskedPaths will mask over the provided paths inside the container so that they cannot be read: a file";
    "masked.directory" => masked_directory, "config-linux.md#masked-paths",
        "maskedPaths will mask over the provided paths inside the container so that they cannot be read: a directory";
    "masked.of-proc" => masked_of_proc, "config-linux.md#masked-paths",
        "maskedPaths will mask over the provided paths inside the container: one of /proc";
    "masked.missing" => masked_missing, "config-linux.md#masked-paths", "maskedPaths: a path that does not exist needs no mask";
    "readonly-paths.directory" => readonly_directory, "config-linux.md#readonly-paths",
        "readonlyPaths will set the provided paths as readonly inside the container: a directory";
    "readonly-paths.file" => readonly_file, "config-linux.md#readonly-paths",
        "readonlyPaths will set the provided paths as readonly inside the container: a file";
    "readonly-paths.of-proc" => readonly_of_proc, "config-linux.md#readonly-paths",
        "readonlyPaths will set the provided paths as readonly inside the container: one of /proc";
    "sysctl.network" => sysctl_network, "config-linux.md#sysctl",
        "sysctl allows kernel parameters to be modified at runtime for the container: of the network namespace";
    "sysctl.ipc" => sysctl_ipc, "config-linux.md#sysctl",
        "sysctl allows kernel parameters to be modified at runtime for the container: of the ipc namespace";
    "sysctl.unknown" => sysctl_unknown, "config-linux.md#sysctl", "A parameter that does not exist cannot be applied: error";
    "sysctl.host-is-unchanged" => sysctl_host, "config-linux.md#sysctl", "sysctl: for the container, not for the host";
}

/// Runs a script with a file /srv/secret/file and this list set.
fn with_paths(lab: &Lab, list: &str, paths: Value, script: &str) -> Result<String> {
    lab.script(script, |bundle| {
        bundle.file("srv/secret/file", "secret", 0o666)?.set(&format!("/linux/{list}"), paths);
        Ok(())
    })
}

fn masked_file(lab: &Lab) -> Result<()> {
    let output =
        with_paths(lab, "maskedPaths", json!(["/srv/secret/file"]), "cat /srv/secret/file; echo end")?;
    same("the file", "end", &output)
}

fn masked_directory(lab: &Lab) -> Result<()> {
    let script = "ls -A /srv/secret; touch /srv/secret/new 2>/dev/null && echo writable; echo end";
    same("the directory", "end", &with_paths(lab, "maskedPaths", json!(["/srv/secret"]), script)?)
}

fn masked_of_proc(lab: &Lab) -> Result<()> {
    let output = with_paths(lab, "maskedPaths", json!(["/proc/meminfo"]), "cat /proc/meminfo; echo end")?;
    same("the file", "end", &output)
}

fn masked_missing(lab: &Lab) -> Result<()> {
    same("output", "ran", &with_paths(lab, "maskedPaths", json!(["/no/such/path"]), "echo ran")?)
}

fn readonly_directory(lab: &Lab) -> Result<()> {
    let script = "cat /srv/secret/file; touch /srv/secret/new 2>/dev/null || echo ' read-only'";
    same(
        "the directory",
        "secret read-only",
        &with_paths(lab, "readonlyPaths", json!(["/srv/secret"]), script)?,
    )
}

fn readonly_file(lab: &Lab) -> Result<()> {
    let script = "cat /srv/secret/file; (echo x >/srv/secret/file) 2>/dev/null || echo ' read-only'";
    same(
        "the file",
        "secret read-only",
        &with_paths(lab, "readonlyPaths", json!(["/srv/secret/file"]), script)?,
    )
}

fn readonly_of_proc(lab: &Lab) -> Result<()> {
    let script = "(echo x >/proc/sys/kernel/domainname) 2>&1 | grep -o 'Read-only file system'";
    same(
        "the file",
        "Read-only file system",
        &with_paths(lab, "readonlyPaths", json!(["/proc/sys"]), script)?,
    )
}

fn with_sysctl(lab: &Lab, name: &str, value: &str) -> Result<String> {
    lab.script(&format!("cat /proc/sys/{}", name.replace('.', "/")), |bundle| {
        bundle.set("/linux/sysctl", json!({name: value}));
        Ok(())
    })
}

fn sysctl_network(lab: &Lab) -> Result<()> {
    same("net.ipv4.ip_forward", "1", &with_sysctl(lab, "net.ipv4.ip_forward", "1")?)?;
    same("net.ipv4.ip_forward", "0", &with_sysctl(lab, "net.ipv4.ip_forward", "0")?)
}

fn sysctl_ipc(lab: &Lab) -> Result<()> {
    same("kernel.msgmax", "12345", &with_sysctl(lab, "kernel.msgmax", "12345")?)
}

fn sysctl_unknown(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.set("/linux/sysctl", json!({"net.no_such_parameter": "1"}))).map(drop)
}

fn sysctl_host(lab: &Lab) -> Result<()> {
    let file = "/proc/sys/kernel/msgmax";
    let before = std::fs::read_to_string(file)?;
    with_sysctl(lab, "kernel.msgmax", "23456")?;
    let after = std::fs::read_to_string(file)?;
    holds("the host's value to stay", before == after, after)
}
