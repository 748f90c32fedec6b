//! The `features` document.

use super::state::is_version;
use crate::case::{cases, holds};
use crate::lab::Lab;
use anyhow::{Context, Result};
use serde_json::Value;

cases! {
    "features.json" => json, "features.md#features-structure",
        "A runtime MAY provide a JSON structure about its implemented features to callers: an object";
    "features.versions" => versions, "features.md#specification-version",
        "ociVersionMin and ociVersionMax (string, REQUIRED): the minimum and maximum recognized version";
    "features.hooks" => hooks, "features.md#hooks", "hooks: the recognized names of the hooks";
    "features.mount-options" => mount_options, "features.md#mount-options",
        "mountOptions: the recognized names of the mount options";
    "features.namespaces" => namespaces, "features-linux.md#namespaces", "namespaces: the recognized names of the namespaces";
    "features.capabilities" => capabilities, "features-linux.md#capabilities",
        "capabilities: the recognized names of the capabilities";
    "features.seccomp" => seccomp, "features-linux.md#seccomp", "seccomp: enabled, actions, operators and archs";
}

fn features(lab: &Lab) -> Result<Value> {
    let output = lab.call(&["features"])?.ok()?;
    let features: Value = serde_json::from_str(&output.stdout).context("the features are no JSON")?;
    holds("an object", features.is_object(), &features)?;
    Ok(features)
}

fn json(lab: &Lab) -> Result<()> {
    features(lab).map(drop)
}

fn versions(lab: &Lab) -> Result<()> {
    let features = features(lab)?;
    for key in ["ociVersionMin", "ociVersionMax"] {
        holds(
            &format!("{key} to be a version"),
            is_version(features[key].as_str().unwrap_or_default()),
            &features[key],
        )?;
    }
    Ok(())
}

/// Expects all of these names in a list.
fn has_all(lab: &Lab, pointer: &str, names: &[&str]) -> Result<()> {
    let features = features(lab)?;
    let list =
        features.pointer(pointer).and_then(Value::as_array).with_context(|| format!("no list {pointer}"))?;
    let missing: Vec<_> = names.iter().filter(|name| !list.iter().any(|entry| entry == **name)).collect();
    holds(&format!("{names:?} in {pointer}"), missing.is_empty(), format!("without {missing:?}"))
}

fn hooks(lab: &Lab) -> Result<()> {
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    has_all(lab, "/hooks", &kinds)
}

fn mount_options(lab: &Lab) -> Result<()> {
    has_all(
        lab,
        "/mountOptions",
        &["bind", "rbind", "ro", "rw", "nosuid", "nodev", "noexec", "rshared", "rslave", "rprivate"],
    )
}

fn namespaces(lab: &Lab) -> Result<()> {
    has_all(lab, "/linux/namespaces", &["mount", "network", "pid", "ipc", "uts", "user"])
}

fn capabilities(lab: &Lab) -> Result<()> {
    has_all(lab, "/linux/capabilities", &["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_NET_BIND_SERVICE"])
}

fn seccomp(lab: &Lab) -> Result<()> {
    holds("seccomp to be enabled", features(lab)?["linux"]["seccomp"]["enabled"] == true, "another value")?;
    has_all(lab, "/linux/seccomp/actions", &["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL"])?;
    has_all(lab, "/linux/seccomp/operators", &["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ"])
}
