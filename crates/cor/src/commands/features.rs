//! `cor features`: what this runtime supports, as the runtime specification wants it (features.md).

use crate::context::Context;
use sandbox::configuration::ANNOTATION_PREFIX;
use sandbox::lifecycle::OCI_VERSION;
use sandbox::plan;
use serde_json::json;

/// Print what this runtime supports as JSON
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_: Args, _: &Context) -> anyhow::Result<u8> {
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": plan::known_options(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": plan::known_capabilities(),
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": plan::seccomp_features(),
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": false },
            "memoryPolicy": {},
        },
        "annotations": { "io.clearcontainers.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": [ANNOTATION_PREFIX],
    });
    println!("{}", serde_json::to_string_pretty(&features)?);
    Ok(0)
}
