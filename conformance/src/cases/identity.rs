//! `process.user`, `process.capabilities`, `process.noNewPrivileges`.

use crate::bundle::Bundle;
use crate::case::{cases, holds, same};
use crate::lab::Lab;
use anyhow::{Context, Result};
use serde_json::{Value, json};

cases! {
    "user.uid-gid" => uid_gid, "config.md#posix-platform-user",
        "uid and gid specify the user ID and group ID in the container namespace";
    "user.additional-gids" => additional_gids, "config.md#posix-platform-user",
        "additionalGids specifies additional group IDs in the container namespace to be added to the process";
    "user.no-other-groups" => no_other_groups, "config.md#posix-platform-user",
        "additionalGids: without it the process is in no group of the runtime's process";
    "user.umask" => umask, "config.md#posix-platform-user", "umask specifies the umask of the user";
    "user.home-is-not-needed" => unknown_user, "config.md#posix-platform-user",
        "Symbolic names are left to upper levels: a uid without name in the container works";
    "capabilities.bounding" => bounding, "config.md#linux-process", "bounding is the array of bounding capabilities kept for the process";
    "capabilities.inheritable" => inheritable, "config.md#linux-process",
        "inheritable is the array of inheritable capabilities kept for the process";
    "capabilities.permitted" => permitted, "config.md#linux-process",
        "permitted is the array of permitted capabilities kept for the process: none for a user but root without ambient ones";
    "capabilities.effective" => effective, "config.md#linux-process",
        "effective is the array of effective capabilities kept for the process: root's, within the bounding set";
    "capabilities.ambient" => ambient, "config.md#linux-process", "ambient is the array of ambient capabilities kept for the process";
    "capabilities.none" => none, "config.md#linux-process", "capabilities: empty sets leave none";
    "capabilities.enforced" => enforced, "config.md#linux-process",
        "capabilities are kept for the process: what needs another one fails";
    "capabilities.unknown" => unknown_capability, "config.md#linux-process",
        "Any value which cannot be mapped to a relevant kernel interface MUST be logged as a warning; runtimes SHOULD NOT fail";
    "no-new-privileges.set" => no_new_privileges, "config.md#linux-process",
        "noNewPrivileges set to true prevents the process from gaining additional privileges";
    "no-new-privileges.unset" => new_privileges, "config.md#linux-process", "noNewPrivileges is off when it is false";
}

/// Bits of `<linux/capability.h>`.
const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const NET_BIND_SERVICE: u64 = 1 << 10;

fn with_user(lab: &Lab, user: Value, script: &str) -> Result<String> {
    lab.script(script, |bundle| {
        bundle.set("/process/user", user);
        Ok(())
    })
}

fn uid_gid(lab: &Lab) -> Result<()> {
    same(
        "uid and gid",
        "1000 1001",
        &with_user(lab, json!({"uid": 1000, "gid": 1001}), "echo $(id -u) $(id -g)")?,
    )
}

fn additional_gids(lab: &Lab) -> Result<()> {
    let user = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 4000]});
    same("groups", "Groups: 5 4000", &with_user(lab, user, "echo $(grep Groups /proc/self/status)")?)
}

fn no_other_groups(lab: &Lab) -> Result<()> {
    let groups = with_user(lab, json!({"uid": 1000, "gid": 1000}), "echo $(grep Groups /proc/self/status)")?;
    // Some runtimes add the group itself.
    holds("no group but its own", groups == "Groups:" || groups == "Groups: 1000", groups)
}

fn umask(lab: &Lab) -> Result<()> {
    let user = json!({"uid": 0, "gid": 0, "umask": 0o027});
    same(
        "umask and mode",
        "0027 640",
        &with_user(lab, user, "touch /tmp/a; echo $(umask) $(stat -c %a /tmp/a)")?,
    )
}

fn unknown_user(lab: &Lab) -> Result<()> {
    same("uid", "12345", &with_user(lab, json!({"uid": 12345, "gid": 12345}), "id -u")?)
}

/// A set of the program's own capabilities after it was changed by `change`.
fn set_of(lab: &Lab, set: &str, change: impl FnOnce(&mut Bundle)) -> Result<u64> {
    let output = lab.script("cat /proc/self/status", |bundle| {
        change(bundle);
        Ok(())
    })?;
    let line =
        output.lines().find(|line| line.starts_with(set)).with_context(|| format!("no {set} in {output}"))?;
    u64::from_str_radix(line.split_whitespace().last().unwrap_or_default(), 16)
        .with_context(|| line.to_owned())
}

fn bounding(lab: &Lab) -> Result<()> {
    let came = set_of(lab, "CapBnd:", |bundle| _ = bundle.capabilities(&["CAP_CHOWN", "CAP_KILL"]))?;
    same("bounding set", &(CHOWN | KILL), &came)
}

fn inheritable(lab: &Lab) -> Result<()> {
    let came = set_of(lab, "CapInh:", |bundle| {
        bundle.capabilities(&["CAP_CHOWN", "CAP_KILL"]);
        bundle.set("/process/capabilities/inheritable", json!(["CAP_KILL"]));
        bundle.set("/process/capabilities/ambient", json!([]));
    })?;
    same("inheritable set", &KILL, &came)
}

fn as_user(bundle: &mut Bundle, ambient: &[&str]) {
    bundle.capabilities(&["CAP_CHOWN", "CAP_KILL"]);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.set("/process/capabilities/ambient", json!(ambient));
}

fn permitted(lab: &Lab) -> Result<()> {
    same("permitted set", &0, &set_of(lab, "CapPrm:", |bundle| as_user(bundle, &[]))?)
}

fn effective(lab: &Lab) -> Result<()> {
    let came =
        set_of(lab, "CapEff:", |bundle| _ = bundle.capabilities(&["CAP_KILL", "CAP_NET_BIND_SERVICE"]))?;
    same("effective set", &(KILL | NET_BIND_SERVICE), &came)
}

fn ambient(lab: &Lab) -> Result<()> {
    for set in ["CapAmb:", "CapPrm:", "CapEff:"] {
        same(set, &CHOWN, &set_of(lab, set, |bundle| as_user(bundle, &["CAP_CHOWN"]))?)?;
    }
    Ok(())
}

fn none(lab: &Lab) -> Result<()> {
    for set in ["CapBnd:", "CapEff:"] {
        same(set, &0, &set_of(lab, set, |bundle| _ = bundle.capabilities(&[]))?)?;
    }
    Ok(())
}

fn enforced(lab: &Lab) -> Result<()> {
    let script = "touch /tmp/a; chown 5 /tmp/a 2>/dev/null && echo done || echo refused";
    let run = |names: &[&str]| {
        lab.script(script, |bundle| {
            bundle.capabilities(names);
            Ok(())
        })
    };
    same("chown without CAP_CHOWN", "refused", &run(&["CAP_KILL"])?)?;
    same("chown with CAP_CHOWN", "done", &run(&["CAP_CHOWN"])?)
}

fn unknown_capability(lab: &Lab) -> Result<()> {
    let came = set_of(lab, "CapBnd:", |bundle| _ = bundle.capabilities(&["CAP_KILL", "CAP_NO_SUCH"]))?;
    same("bounding set", &KILL, &came)
}

fn no_new_privs(lab: &Lab, value: bool) -> Result<String> {
    lab.script("echo $(grep NoNewPrivs /proc/self/status)", |bundle| {
        bundle.set("/process/noNewPrivileges", json!(value));
        Ok(())
    })
}

fn no_new_privileges(lab: &Lab) -> Result<()> {
    same("the process's status", "NoNewPrivs: 1", &no_new_privs(lab, true)?)
}

fn new_privileges(lab: &Lab) -> Result<()> {
    same("the process's status", "NoNewPrivs: 0", &no_new_privs(lab, false)?)
}
