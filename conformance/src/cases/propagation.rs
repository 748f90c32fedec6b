//! `linux.rootfsPropagation` and propagation of mounts.

use crate::case::{cases, holds};
use crate::lab::Lab;
use anyhow::Result;
use serde_json::json;

cases! {
    "propagation.root-shared" => shared, "config-linux.md#rootfs-mount-propagation",
        "rootfsPropagation sets the rootfs's mount propagation: shared";
    "propagation.root-slave" => slave, "config-linux.md#rootfs-mount-propagation",
        "rootfsPropagation sets the rootfs's mount propagation: slave is not shared";
    "propagation.root-private" => private, "config-linux.md#rootfs-mount-propagation",
        "rootfsPropagation sets the rootfs's mount propagation: private";
    "propagation.root-unbindable" => unbindable, "config-linux.md#rootfs-mount-propagation",
        "rootfsPropagation sets the rootfs's mount propagation: unbindable";
    "propagation.mount-shared" => mount_shared, "config.md#linux-mount-options", "Runtimes MUST support the option rshared";
    "propagation.mount-private" => mount_private, "config.md#linux-mount-options", "Runtimes MUST support the option rprivate";
    "propagation.mount-unbindable" => mount_unbindable, "config.md#linux-mount-options",
        "Runtimes MUST support the option unbindable";
}

/// Optional fields of a mount point's line of proc_pid_mountinfo(5), such as `shared:1`.
fn fields(lab: &Lab, point: &str, root: Option<&str>, option: Option<&str>) -> Result<String> {
    let script = format!(
        "while read -r _ _ _ _ at _ rest; do [ \"$at\" = {point} ] && echo \"x ${{rest}}\"; done </proc/self/mountinfo | tail -n 1 | sed 's/ - .*//'"
    );
    lab.script(&script, |bundle| {
        if let Some(propagation) = root {
            bundle.set("/linux/rootfsPropagation", json!(propagation));
        }
        if let Some(option) = option {
            bundle.mount(point, "tmpfs", "tmpfs", &[option]);
        }
        Ok(())
    })
}

fn shared(lab: &Lab) -> Result<()> {
    let fields = fields(lab, "/", Some("shared"), None)?;
    holds("a shared root", fields.contains("shared:"), fields)
}

fn slave(lab: &Lab) -> Result<()> {
    let fields = fields(lab, "/", Some("slave"), None)?;
    holds("a root that is not shared", !fields.contains("shared:"), fields)
}

fn private(lab: &Lab) -> Result<()> {
    let fields = fields(lab, "/", Some("private"), None)?;
    holds(
        "a root that is neither shared nor slave",
        !fields.contains("shared:") && !fields.contains("master:"),
        fields,
    )
}

fn unbindable(lab: &Lab) -> Result<()> {
    let fields = fields(lab, "/", Some("unbindable"), None)?;
    holds("an unbindable root", fields.contains("unbindable"), fields)
}

fn mount_shared(lab: &Lab) -> Result<()> {
    let fields = fields(lab, "/mnt", None, Some("rshared"))?;
    holds("a shared mount", fields.contains("shared:"), fields)
}

fn mount_private(lab: &Lab) -> Result<()> {
    let fields = fields(lab, "/mnt", None, Some("rprivate"))?;
    holds("a private mount", !fields.contains("shared:") && !fields.contains("master:"), fields)
}

fn mount_unbindable(lab: &Lab) -> Result<()> {
    let fields = fields(lab, "/mnt", None, Some("unbindable"))?;
    holds("an unbindable mount", fields.contains("unbindable"), fields)
}
