//! An OCI bundle: a root file system around a static busybox, and a config.json that the test changes.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian's busybox-static has it.
const BUSYBOX: &str = "/bin/busybox";

/// Version of the bundles, but in tests of the version: one that every runtime of today takes.
const OCI_VERSION: &str = "1.0.2";

/// A bundle directory. `config.json` is written when the bundle is used.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    /// The configuration.
    pub config: Value,
}

impl Bundle {
    /// Makes one in `path`: writable root, no terminal, few capabilities, `sleep` as program.
    pub fn new(path: &Path) -> Result<Self> {
        make_rootfs(&path.join("rootfs")).with_context(|| format!("making {}", path.display()))?;
        let bundle = Self { path: path.to_owned(), config: config() };
        bundle.write()?;
        Ok(bundle)
    }

    /// Its directory; `config.json` is as the test left it.
    pub fn path(&self) -> &Path {
        if let Err(error) = self.write() {
            eprintln!("conformance: {error:#}");
        }
        &self.path
    }

    /// Writes `config.json`.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.config)?;
        fs::write(self.path.join("config.json"), text).context("writing config.json")
    }

    /// Sets a property by its JSON pointer, such as `/process/cwd`; objects on the way are made.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut place = &mut self.config;
        for key in pointer.trim_start_matches('/').split('/') {
            place = &mut place[key];
        }
        *place = value;
        self
    }

    /// Adds to a list by its JSON pointer.
    pub fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut list = self.config.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        list.push(value);
        self.set(pointer, list.into())
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        self.push("/mounts", mount)
    }

    /// Sets the program and its arguments.
    pub fn program(&mut self, args: &[&str]) -> &mut Self {
        self.set("/process/args", json!(args))
    }

    /// Sets a shell script as program.
    pub fn script(&mut self, script: &str) -> &mut Self {
        self.program(&["sh", "-c", script])
    }

    /// Gives all five sets these capabilities.
    pub fn capabilities(&mut self, names: &[&str]) -> &mut Self {
        let sets = ["bounding", "effective", "permitted", "inheritable", "ambient"];
        sets.iter()
            .fold(self, |bundle, set| bundle.set(&format!("/process/capabilities/{set}"), json!(names)))
    }

    /// Takes a namespace out.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        if let Some(list) = self.config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
            list.retain(|namespace| namespace["type"] != kind);
        }
        self
    }

    /// Adds a namespace, in place of the one of this kind.
    pub fn namespace(&mut self, namespace: &Value) -> &mut Self {
        let kind = namespace["type"].as_str().unwrap_or_default().to_owned();
        self.without_namespace(&kind).push("/linux/namespaces", namespace.clone())
    }

    /// A path in its root file system, as the host names it.
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.path.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// Writes a file of the root file system.
    pub fn file(&mut self, path: &str, content: &str, mode: u32) -> Result<&mut Self> {
        write(&self.rootfs(path), content, mode)?;
        Ok(self)
    }
}

/// Writes a file and the directories above it.
pub fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).with_context(doing)?;
    fs::write(path, content).with_context(doing)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(doing)
}

fn make_rootfs(rootfs: &Path) -> Result<()> {
    for directory in ["bin", "dev", "etc", "home/user", "mnt", "proc", "root", "run", "sys", "tmp", "var"] {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(BUSYBOX, rootfs.join("bin/busybox"))
        .with_context(|| format!("copying {BUSYBOX}; not installed? scripts/install-deps test"))?;
    let list = Command::new(BUSYBOX).arg("--list").output().context("asking busybox for its programs")?;
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", rootfs.join("bin").join(name))?;
    }
    write(
        &rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        0o644,
    )?;
    write(&rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\n", 0o644)
}

fn config() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sleep", "1000"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "conformance",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
        },
    })
}
