//! Keeps what was found out by trying from one program start to the next.
//!
//! The KVM probe creates a virtual machine, which takes a millisecond on a good host and up to 70 in some control groups; measuring the time
//! stamp counter takes longer. What they find can change only by a reboot or by another KVM module, so a record says for which of these it
//! holds.

use crate::Root;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A record is about 300 bytes.
const LARGEST_RECORD: u64 = 4096;

/// What was found, and what it holds for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<T> {
    boot_id: String,
    modules: Vec<String>,
    found: T,
}

/// What is on record under `name` for this boot, or what `probe` finds, which is then recorded.
///
/// A record that cannot be read or written costs time only, so no error leaves this module.
pub(crate) fn or_probe<T: Serialize + DeserializeOwned>(
    root: &Root,
    name: &str,
    probe: impl FnOnce() -> T,
) -> T {
    let (Some(path), Ok(boot_id)) = (root.probe_record(name), root.read("/proc/sys/kernel/random/boot_id"))
    else {
        return probe();
    };
    let (boot_id, modules) = (boot_id.trim().to_owned(), kvm_modules(root));
    match read::<T>(&path) {
        Ok(record) if record.boot_id == boot_id && record.modules == modules => record.found,
        _ => {
            let record = Record { boot_id, modules, found: probe() };
            let _ = write(&path, &record);
            record.found
        }
    }
}

/// Names of all loaded modules whose name starts with `kvm`, sorted.
fn kvm_modules(root: &Root) -> Vec<String> {
    let entries = fs::read_dir(root.path("/sys/module")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut modules: Vec<_> = names.filter(|name| name.starts_with("kvm")).collect();
    modules.sort();
    modules
}

/// Reads a record, but only one that this user (or root) wrote and nobody else can change.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Record<T>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let (file_owner, mode) = file.metadata().map(|m| (m.uid(), m.mode()))?;
    let own = fs::metadata("/proc/self")?.uid();
    if (file_owner != 0 && file_owner != own) || mode & 0o022 != 0 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let mut text = String::new();
    file.take(LARGEST_RECORD).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// Writes a record whole or not at all: readers never see half of one.
fn write(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !directory.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(directory)?;
    }
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|file| Ok(serde_json::to_writer(file, record)?))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Kvm;
    use crate::fake_host::FakeHost;
    use std::os::unix::fs::PermissionsExt;

    fn refused() -> Kvm {
        Kvm::Unusable("no".to_owned())
    }

    #[test]
    fn the_probe_runs_once_per_boot_and_module() {
        let host = FakeHost::new();
        host.forget_probe();
        let root = host.root();
        assert_eq!(or_probe(&root, "kvm-probe", refused), refused());
        assert_eq!(or_probe(&root, "kvm-probe", || -> Kvm { panic!("probed twice") }), refused());
        host.write("/proc/sys/kernel/random/boot_id", "another\n");
        assert_eq!(or_probe(&root, "kvm-probe", || Kvm::Usable), Kvm::Usable);
        host.write("/sys/module/kvm_amd/refcnt", "0");
        assert_eq!(or_probe(&root, "kvm-probe", refused), refused());
        let left: Vec<_> = fs::read_dir(host.path("/run/clear-containers")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_record_that_others_can_write_or_that_is_damaged_is_not_believed() {
        let host = FakeHost::new();
        let (root, path) = (host.root(), host.path("/run/clear-containers/kvm-probe.json"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(or_probe(&root, "kvm-probe", refused), refused());
        fs::write(&path, "{\"boot_id\":").unwrap();
        assert_eq!(or_probe(&root, "kvm-probe", || Kvm::Usable), Kvm::Usable);
    }

    #[test]
    fn nowhere_to_write_is_no_error() {
        let host = FakeHost::new();
        host.forget_probe();
        fs::remove_dir(host.path("/run/clear-containers")).unwrap();
        fs::remove_dir(host.path("/run")).unwrap();
        assert_eq!(or_probe(&host.root(), "kvm-probe", refused), refused());
    }
}
