//! An image in one file that every engine reads: an OCI layout that has Docker's `manifest.json` too.

use crate::command::Command;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Its name in every engine.
pub const NAME: &str = "localhost/clear:latest";

/// A user that is not root.
pub const USER: u32 = 1000;

/// Makes the archive in `directory`: a static busybox, accounts, a label.
///
/// # Panics
/// When it cannot be made.
pub fn archive(directory: &Path) -> PathBuf {
    let rootfs = directory.join("rootfs");
    populate(&rootfs);
    let config = json!({
        "Cmd": ["/bin/sh"],
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "FROM_IMAGE=yes"],
        "Labels": { "maker": "clear" },
    });
    write(directory, &rootfs, NAME, &config)
}

/// An archive with nothing in its only layer but one static program, `/program`: no shell, no accounts, no `/tmp`.
///
/// # Panics
/// When it cannot be made.
pub fn bare_archive(directory: &Path, name: &str) -> PathBuf {
    let rootfs = directory.join("bare");
    fs::create_dir_all(&rootfs).expect("a directory");
    fs::copy("/bin/busybox", rootfs.join("busybox")).expect("busybox-static");
    write(directory, &rootfs, name, &json!({ "Entrypoint": ["/busybox"] }))
}

/// Fills a root file system.
fn populate(rootfs: &Path) {
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/app", "var/www"] {
        fs::create_dir_all(rootfs.join(name)).expect("a directory");
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static");
    let applets = Command::new("/bin/busybox").arg("--list").ok();
    for applet in applets.lines().filter(|&applet| applet != "busybox") {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("a link");
    }
    fs::write(
        rootfs.join("etc/passwd"),
        format!("root:x:0:0:root:/root:/bin/sh\napp:x:{USER}:{USER}::/home/app:/bin/sh\n"),
    )
    .expect("accounts");
    fs::write(rootfs.join("etc/group"), format!("root:x:0:\napp:x:{USER}:\nextra:x:2000:app\n"))
        .expect("groups");
    fs::write(rootfs.join("etc/from-image"), "from the image\n").expect("a file");
    let owner = Command::new("chown").args(["-R", "1000:1000"]).arg(rootfs.join("home/app"));
    owner.ok();
    Command::new("chmod").arg("1777").arg(rootfs.join("tmp")).ok();
}

/// Packs a root file system as an image of one layer.
fn write(directory: &Path, rootfs: &Path, name: &str, config: &Value) -> PathBuf {
    let layout = tempfile::tempdir_in(directory).expect("a directory");
    let blobs = layout.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let layer = layout.path().join("layer");
    let names: Vec<_> = fs::read_dir(rootfs).expect("the root file system").flatten().collect();
    let tar = Command::new("tar")
        .args(["--create", "--numeric-owner", "--file"])
        .arg(&layer)
        .arg("--directory")
        .arg(rootfs);
    tar.args(names.iter().map(|entry| entry.file_name())).ok();
    let (layer, layer_size) = keep(&blobs, &layer);
    let put = |value: &Value| {
        let file = layout.path().join("blob");
        fs::write(&file, value.to_string()).expect("a blob");
        keep(&blobs, &file)
    };
    let (config, config_size) = put(&json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "the tests" }],
    }));
    let descriptor = |kind: &str, digest: &str, size: u64| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": size });
    let (manifest, manifest_size) = put(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config, config_size),
        "layers": [descriptor("layer.v1.tar", &layer, layer_size)],
    }));
    let mut entry = descriptor("manifest.v1+json", &manifest, manifest_size);
    entry["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
    let file =
        |file: &str, value: Value| fs::write(layout.path().join(file), value.to_string()).expect("a file");
    file("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }));
    file("index.json", json!({ "schemaVersion": 2, "manifests": [entry] }));
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    file("manifest.json", json!([{ "Config": blob(&config), "RepoTags": [name], "Layers": [blob(&layer)] }]));
    let archive = directory.join(format!("{}.tar", &manifest[..12]));
    Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(layout.path())
        .args(["oci-layout", "index.json", "manifest.json", "blobs"])
        .ok();
    archive
}

/// Moves a file to where its digest names it; returns digest and size.
fn keep(blobs: &Path, file: &Path) -> (String, u64) {
    let sum = Command::new("sha256sum").arg(file).ok();
    let digest = sum.split(' ').next().expect("a digest").to_string();
    let size = fs::metadata(file).expect("a blob").len();
    fs::rename(file, blobs.join(&digest)).expect("keeping a blob");
    (digest, size)
}
