//! An OCI bundle: a root file system around a static busybox, and a config.json out of `cor spec`.

use crate::command::Command;
use crate::programs::Programs;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A bundle directory.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n";
const GROUP: &str = "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n";

impl Bundle {
    /// Makes one in `path`: writable root, no terminal, all capabilities, `sleep` as program.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(path: &Path) -> Self {
        make_rootfs(&path.join("rootfs")).unwrap_or_else(|e| panic!("making {}: {e}", path.display()));
        Command::new(Programs::get().cor()).args(["spec", "--bundle"]).arg(path).ok();
        let bundle = Bundle { path: path.to_path_buf() };
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["sleep", "1000"]);
            spec["root"]["readonly"] = json!(false);
            spec["hostname"] = json!("guest");
            full_capabilities(spec);
        });
        bundle
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in its root file system, as the host names it.
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.path.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// The configuration.
    ///
    /// # Panics
    /// When it is no JSON.
    pub fn spec(&self) -> Value {
        let text = fs::read(self.path.join("config.json")).expect("reading config.json");
        serde_json::from_slice(&text).expect("config.json is JSON")
    }

    /// Changes the configuration.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn change(&self, change: impl FnOnce(&mut Value)) -> &Self {
        let mut spec = self.spec();
        change(&mut spec);
        let text = serde_json::to_vec_pretty(&spec).expect("writing JSON");
        fs::write(self.path.join("config.json"), text).expect("writing config.json");
        self
    }

    /// Sets the program and its arguments.
    pub fn program(&self, args: &[&str]) -> &Self {
        self.change(|spec| spec["process"]["args"] = json!(args))
    }

    /// Sets a shell script as program.
    pub fn script(&self, script: &str) -> &Self {
        self.program(&["sh", "-c", script])
    }

    /// Writes a file of the root file system.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> &Self {
        let path = self.rootfs(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("making directories");
        fs::write(&path, content).expect("writing a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("setting a mode");
        self
    }

    /// Puts a dynamically linked program of the host, with the libraries it needs, into the root file system as `/bin/NAME`.
    ///
    /// # Panics
    /// When it or a library cannot be copied.
    pub fn host_program(&self, program: &str, name: &str) -> &Self {
        copy(program, &self.rootfs(&format!("bin/{name}")));
        let libraries = Command::new("ldd").arg(program).ok();
        for line in libraries.lines() {
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(path) = path {
                copy(path, &self.rootfs(path));
            }
        }
        self
    }
}

fn copy(from: &str, to: &Path) {
    fs::create_dir_all(to.parent().expect("a parent")).expect("making directories");
    fs::copy(from, to).unwrap_or_else(|e| panic!("copying {from}: {e}"));
}

/// All five sets, all capabilities.
pub fn full_capabilities(spec: &mut Value) {
    let all = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_DAC_READ_SEARCH",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_NET_ADMIN",
        "CAP_SYS_CHROOT",
        "CAP_SYS_ADMIN",
        "CAP_SYS_RESOURCE",
        "CAP_SYS_TTY_CONFIG",
        "CAP_SYS_PTRACE",
        "CAP_SYS_NICE",
        "CAP_SYS_BOOT",
        "CAP_MKNOD",
        "CAP_AUDIT_WRITE",
        "CAP_SETFCAP",
        "CAP_IPC_LOCK"
    ]);
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = all.clone();
    }
    spec["process"]["capabilities"]["inheritable"] = json!([]);
    spec["process"]["capabilities"]["ambient"] = json!([]);
    spec["process"]["noNewPrivileges"] = json!(false);
}

/// Adds a mount to a configuration.
///
/// # Panics
/// When the configuration has no list of mounts.
pub fn mount(spec: &mut Value, destination: &str, kind: &str, source: impl AsRef<Path>, options: &[&str]) {
    let mount =
        json!({ "destination": destination, "type": kind, "source": source.as_ref(), "options": options });
    spec["mounts"].as_array_mut().expect("mounts").push(mount);
}

/// Takes a namespace out of a configuration.
///
/// # Panics
/// When the configuration has no list of namespaces.
pub fn remove_namespace(spec: &mut Value, kind: &str) {
    spec["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces")
        .retain(|namespace| namespace["type"] != kind);
}

fn make_rootfs(root: &Path) -> std::io::Result<()> {
    for directory in ["bin", "dev", "etc", "home/user", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp"]
    {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for applet in applets() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::write(root.join("etc/group"), GROUP)?;
    std::os::unix::fs::chown(root.join("home/user"), Some(1000), Some(1000))
}

fn applets() -> &'static [String] {
    static APPLETS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    APPLETS.get_or_init(|| Command::new("/bin/busybox").arg("--list").run().lines())
}
