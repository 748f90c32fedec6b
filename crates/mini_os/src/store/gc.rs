//! What nothing names any more.
//!
//! ```text
//!   refs ──► objects ──(hash of vmlinux)──► kernels          kept
//!   everything else whose lock can be taken                  removed
//! ```

use super::lock::Lock;
use super::{Store, StoreError, at, entries, remove};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Something that was, or would be, removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Garbage {
    /// File or directory.
    pub path: PathBuf,
    /// Bytes on disk that are freed.
    pub size: u64,
}

/// Removes what nothing names; with `dry_run`, only finds it.
///
/// # Errors
/// Those of the file system. A corrupt manifest of a named object stops the collection, since its kernel would
/// look unused.
pub fn collect(store: &Store, dry_run: bool) -> Result<Vec<Garbage>, StoreError> {
    let mut garbage = Vec::new();
    let mut sweep = |kind: &str, path: PathBuf| -> Result<(), StoreError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let key = name.strip_prefix(&format!("{kind}-")).unwrap_or(&name);
        let lock = store.lock_path(kind, key);
        let Some(_held) = Lock::try_take(&lock)? else { return Ok(()) };
        // The object may have got a name before the lock was ours.
        if kind == "object" && path.starts_with(store.root.join("objects")) && named(store)?.contains(&path) {
            return Ok(());
        }
        garbage.push(Garbage { size: size(&path), path: path.clone() });
        if dry_run { Ok(()) } else { remove(&path) }
    };
    for path in entries(&store.root.join("temporary"))? {
        let kind = if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kernel-")) {
            "kernel"
        } else {
            "object"
        };
        sweep(kind, path)?;
    }
    let named = named(store)?;
    for path in entries(&store.root.join("objects"))?.into_iter().filter(|path| !named.contains(path)) {
        sweep("object", path)?;
    }
    let mut used = BTreeSet::new();
    for object in &named {
        used.insert(store.read_manifest(object)?.kernel.sha256);
    }
    for path in entries(&store.root.join("kernels"))? {
        if !crate::kernel::hash_of(&path).is_some_and(|hash| used.contains(&hash)) {
            sweep("kernel", path)?;
        }
    }
    if !dry_run {
        remove_locks(store)?;
    }
    Ok(garbage)
}

fn named(store: &Store) -> Result<BTreeSet<PathBuf>, StoreError> {
    store.names()?.iter().map(|name| store.resolve(name)).collect()
}

/// Removes lock files that nobody holds; who opened one just now notices that it is gone and makes a new one.
fn remove_locks(store: &Store) -> Result<(), StoreError> {
    for path in entries(&store.root.join("locks"))? {
        if let Some(_held) = Lock::try_take(&path)? {
            fs::remove_file(&path).map_err(at("removing", &path))?;
        }
    }
    Ok(())
}

/// Bytes that removing a tree frees: a file with other names (hard links) frees nothing.
fn size(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if metadata.is_dir() {
        return entries(path).unwrap_or_default().iter().map(|entry| size(entry)).sum();
    }
    if metadata.nlink() > 1 { 0 } else { metadata.blocks() * 512 }
}
