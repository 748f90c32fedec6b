//! Finds the mini-OS in its store and makes sure that its files are what its manifest says.
//!
//! ```text
//!   STORE/refs/<name>/manifest.json ─► load ─► Configuration::mini_os (pins, own files) ─► plan ─► verify what is booted
//! ```

use crate::configuration::{Configuration, ConfigurationError};
use crate::state::write_atomically;
use machine_spec::mini_os::{self, Features, File, MiniOs};
use machine_spec::{Device, MachineSpec};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it is noted which files were hashed since the host booted. Only root can write there.
const VERIFIED: &str = "/run/clear-containers/verified";

/// Why there is no mini-OS to boot.
#[derive(Debug, thiserror::Error)]
pub enum MiniOsError {
    /// It was never built.
    #[error("there is no mini-OS {name:?} in {}: build it with `clear-mini-os build{option}`", store.display())]
    Missing {
        /// Its name.
        name: String,
        /// Where it was looked for.
        store: PathBuf,
        /// How to name it when building.
        option: String,
    },
    /// Its manifest is unreadable.
    #[error("reading mini-OS manifest {}: {reason}; rebuild it with `clear-mini-os build`", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The configuration contradicts it.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// One of its files is unreadable.
    #[error("reading {}: {source}; `clear-mini-os verify` checks all files, `clear-mini-os build` rebuilds them", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of its files was changed.
    #[error("{} has the hash {found}, not {expected} as its manifest or pin says: rebuild it with `clear-mini-os build`", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
}

/// The store in use.
pub fn store() -> PathBuf {
    std::env::var_os(mini_os::STORE_VARIABLE).map_or_else(|| mini_os::STORE.into(), PathBuf::from)
}

/// Where the manifest of the mini-OS `name` is.
pub fn manifest(store: &Path, name: &str) -> PathBuf {
    store.join("refs").join(name).join(mini_os::MANIFEST)
}

/// The mini-OS that `configuration` names, paths absolute.
///
/// # Errors
/// When it is missing, unreadable, or not as pinned.
pub fn load(configuration: &Configuration, store: &Path) -> Result<MiniOs, MiniOsError> {
    let choice = &configuration.mini_os;
    let own = |path: &PathBuf| !path.as_os_str().is_empty();
    let complete = own(&choice.kernel) && (own(&choice.initramfs) || own(&choice.image));
    let base = match read(store, &choice.name) {
        Err(MiniOsError::Missing { .. }) if complete => nothing(),
        other => other?,
    };
    Ok(configuration.mini_os(base, |path| fs::metadata(path).map(|m| m.len()))?)
}

/// Stands in for the built mini-OS when the configuration names every file itself.
fn nothing() -> MiniOs {
    let file = File { path: PathBuf::new(), sha256: String::new(), size: 0 };
    MiniOs {
        version: mini_os::VERSION,
        origin: "configuration".into(),
        arch: std::env::consts::ARCH.into(),
        release: "unknown".into(),
        kernel: file,
        initramfs: None,
        image: None,
        features: Features::default(),
    }
}

fn read(store: &Path, name: &str) -> Result<MiniOs, MiniOsError> {
    let missing = || {
        let option = if name == mini_os::DEFAULT_NAME { String::new() } else { format!(" --name {name}") };
        MiniOsError::Missing { name: name.to_string(), store: store.to_path_buf(), option }
    };
    // Resolved once, so that a rebuild between two reads cannot mix two mini-OSes.
    let directory = fs::canonicalize(store.join("refs").join(name)).map_err(|_| missing())?;
    let path = directory.join(mini_os::MANIFEST);
    let bad = |reason: String| MiniOsError::Manifest { path: path.clone(), reason };
    let text = fs::read(&path).map_err(|e| bad(e.to_string()))?;
    let mut found: MiniOs = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    if found.version != mini_os::VERSION {
        return Err(bad(format!("version {} is not supported, only {}", found.version, mini_os::VERSION)));
    }
    for file in
        [Some(&mut found.kernel), found.initramfs.as_mut(), found.image.as_mut()].into_iter().flatten()
    {
        file.path = directory.join(&file.path);
    }
    Ok(found)
}

/// Hashes the files that `machine` boots, unless that was done since they were last changed and the host booted.
///
/// # Errors
/// When one is missing or differs.
pub fn verify(mini_os: &MiniOs, machine: &MachineSpec) -> Result<(), MiniOsError> {
    let devices = machine.devices.iter().filter_map(|device| match device {
        Device::Block { path, .. } | Device::Pmem { path, .. } => Some(path),
        Device::AgentChannel { .. }
        | Device::Vsock { .. }
        | Device::Share { .. }
        | Device::Net { .. }
        | Device::Vfio { .. } => None,
    });
    let booted: Vec<&PathBuf> =
        devices.chain([&machine.kernel.path]).chain(machine.kernel.initramfs.as_ref()).collect();
    let files = [Some(&mini_os.kernel), mini_os.initramfs.as_ref(), mini_os.image.as_ref()];
    for file in files.into_iter().flatten().filter(|f| booted.contains(&&f.path) && !f.sha256.is_empty()) {
        verify_file(file, Path::new(VERIFIED))?;
    }
    Ok(())
}

fn verify_file(file: &File, notes: &Path) -> Result<(), MiniOsError> {
    let unreadable = |source| MiniOsError::File { path: file.path.clone(), source };
    let mut open = fs::File::open(&file.path).map_err(unreadable)?;
    let m = open.metadata().map_err(unreadable)?;
    let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    let identity = format!("{}:{}:{}:{times:?}", m.dev(), m.ino(), m.len());
    let note = notes.join(&file.sha256);
    if fs::read_to_string(&note).is_ok_and(|noted| noted == identity) {
        return Ok(());
    }
    let found = sha256(&mut open).map_err(unreadable)?;
    if !found.eq_ignore_ascii_case(&file.sha256) {
        return Err(MiniOsError::Hash { path: file.path.clone(), found, expected: file.sha256.clone() });
    }
    // A note that cannot be written costs the time of hashing again.
    let _ = fs::create_dir_all(notes).and_then(|()| write_atomically(&note, identity.as_bytes()));
    Ok(())
}

fn sha256(file: &mut fs::File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_found_also_after_it_was_verified() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinux");
        fs::write(&path, "abc").unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_string();
        let file = File { path: path.clone(), sha256, size: 3 };
        let notes = dir.path().join("notes");
        verify_file(&file, &notes).unwrap();
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 1);
        verify_file(&file, &notes).unwrap();
        fs::write(&path, "abd").unwrap();
        assert!(matches!(verify_file(&file, &notes), Err(MiniOsError::Hash { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(verify_file(&file, &notes), Err(MiniOsError::File { .. })));
    }

    #[test]
    fn a_missing_mini_os_says_how_to_build_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(&Configuration::default(), dir.path()).unwrap_err().to_string();
        assert!(error.contains("clear-mini-os build"), "{error}");
    }
}
