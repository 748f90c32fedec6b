//! `root`.

use crate::case::{cases, same};
use crate::lab::Lab;
use anyhow::Result;
use serde_json::json;

cases! {
    "root.relative-path" => relative_path, "config.md#root",
        "path is either an absolute path or a relative path to the bundle: relative, with another name";
    "root.absolute-path" => absolute_path, "config.md#root",
        "path is either an absolute path or a relative path to the bundle: absolute";
    "root.missing" => missing, "config.md#root", "A directory MUST exist at the path declared by the field";
    "root.readonly" => readonly, "config.md#root",
        "If readonly is true then the root filesystem MUST be read-only inside the container";
    "root.readonly-keeps-mounts-writable" => readonly_mounts, "config.md#root",
        "readonly is of the root filesystem: a mount below it stays writable";
    "root.writable" => writable, "config.md#root", "readonly defaults to false: files that the container writes are there";
    "root.host-is-out-of-reach" => host_is_out_of_reach, "config.md#root",
        "root specifies the container's root filesystem: the program sees no other";
}

const CAN_WRITE: &str = "touch /new 2>/dev/null && echo writable || echo read-only";

fn relative_path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    std::fs::rename(bundle.rootfs("/"), bundle.path().join("other root"))?;
    bundle.set("/root/path", json!("other root")).script("echo ran");
    same("output", "ran\n", &lab.run(&bundle)?.stdout)
}

fn absolute_path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let path = lab.path().join("elsewhere");
    std::fs::rename(bundle.rootfs("/"), &path)?;
    bundle.set("/root/path", json!(path)).script("echo ran");
    same("output", "ran\n", &lab.run(&bundle)?.stdout)
}

fn missing(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.set("/root/path", json!("no-such-directory"))).map(drop)
}

fn readonly(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.set("/root/readonly", json!(true)).script(CAN_WRITE);
    same("the root", "read-only\n", &lab.run(&bundle)?.stdout)?;
    same("whether the file is on the host", &false, &bundle.rootfs("new").exists())
}

fn readonly_mounts(lab: &Lab) -> Result<()> {
    let output = lab.script("cd /mnt; touch new && echo writable", |bundle| {
        bundle.set("/root/readonly", json!(true)).mount("/mnt", "tmpfs", "tmpfs", &["rw"]);
        Ok(())
    })?;
    same("the mount", "writable", &output)
}

fn writable(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.script(CAN_WRITE);
    same("the root", "writable\n", &lab.run(&bundle)?.stdout)?;
    same("whether the file is on the host", &true, &bundle.rootfs("new").exists())
}

fn host_is_out_of_reach(lab: &Lab) -> Result<()> {
    let marker = lab.path().join("marker");
    std::fs::write(&marker, "")?;
    let script = format!(
        "for up in / /../.. /proc/1/root/ /proc/self/root/../../; do ls $up{} 2>/dev/null; done; echo end",
        marker.display()
    );
    same("what it found", "end", &lab.script(&script, |_| Ok(()))?)
}
