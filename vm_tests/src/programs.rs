//! Where the programs under test are, and whether this machine can run them. What is missing fails the test with the fix:
//! a suite that skips in silence proves nothing.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The programs under test and the mini-OS that they boot.
#[derive(Debug)]
pub struct Programs {
    /// Directory with `cor`, `clear-mini-os`, ...
    pub directory: PathBuf,
    /// Store of mini-OSes.
    pub store: PathBuf,
    /// Name of the mini-OS that tests boot.
    pub mini_os: String,
    /// What every configuration gets below `[machine]`, unless the test says otherwise: `CLEAR_TEST_MACHINE`, for example
    /// `backend=qemu,chassis=q35`.
    pub machine: Vec<(String, String)>,
}

impl Programs {
    /// The programs of this run.
    ///
    /// # Panics
    /// With the fix, when something is missing.
    pub fn get() -> &'static Self {
        static FOUND: OnceLock<Result<Programs, String>> = OnceLock::new();
        match FOUND.get_or_init(find) {
            Ok(programs) => programs,
            Err(problem) => panic!("end-to-end tests cannot run: {problem}"),
        }
    }

    /// Path of `cor`.
    pub fn cor(&self) -> PathBuf {
        self.directory.join("cor")
    }

    /// Path of `clear-vmm`.
    pub fn clear_vmm(&self) -> PathBuf {
        self.directory.join("clear-vmm")
    }

    /// Path of `clear-mini-os`.
    pub fn clear_mini_os(&self) -> PathBuf {
        self.directory.join("clear-mini-os")
    }

    /// Directory of a mini-OS in the store.
    pub fn mini_os_directory(&self, name: &str) -> PathBuf {
        self.store.join("refs").join(name)
    }
}

fn find() -> Result<Programs, String> {
    if !rustix::process::getuid().is_root() {
        return Err("they make virtual machines and control groups: run them as root".into());
    }
    let in_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
    };
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    in_path(&qemu).ok_or_else(|| format!("{qemu} is missing: scripts/install-deps test"))?;
    if !Path::new("/bin/busybox").is_file() {
        return Err("/bin/busybox is missing: apt-get install busybox-static".into());
    }
    let directory = directory();
    if !directory.join("cor").is_file() {
        return Err(format!("there is no `cor` in {}: build it with `make build`", directory.display()));
    }
    let store = std::env::var_os("CLEAR_MINI_OS_STORE")
        .map_or_else(|| PathBuf::from("/var/lib/clear-containers/mini-os"), PathBuf::from);
    let exists = |name: &str| store.join("refs").join(name).join("manifest.json").is_file();
    let mini_os = match std::env::var("CLEAR_TEST_MINI_OS") {
        Ok(name) => name,
        Err(_) if exists("container") => "container".into(),
        Err(_) => "default".into(),
    };
    if !exists(&mini_os) {
        return Err(format!("there is no mini-OS {mini_os:?} in {}: clear-mini-os build", store.display()));
    }
    let machine = std::env::var("CLEAR_TEST_MACHINE").unwrap_or_default();
    let pair = |text: &str| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    let machine = machine.split(',').filter(|text| !text.is_empty()).map(|text| {
        pair(text).ok_or_else(|| format!("CLEAR_TEST_MACHINE: {text:?} has not the form key=value"))
    });
    Ok(Programs { directory, store, mini_os, machine: machine.collect::<Result<_, _>>()? })
}

/// `CLEAR_TEST_PROGRAMS`, else the release directory beside the one that this test was built into.
fn directory() -> PathBuf {
    if let Some(given) = std::env::var_os("CLEAR_TEST_PROGRAMS") {
        return given.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    target.join("release")
}
