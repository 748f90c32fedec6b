//! The store on disk: objects that never change, names that point to them, a cache of kernels.
//!
//! ```text
//!   objects/<key>/    a mini-OS: manifest.json and its files             (contract: machine_spec::mini_os)
//!   refs/<name>       symbolic link to ../objects/<key>, replaced atomically
//!   kernels/<key>/    kernel.json, vmlinux, config, modules/: what objects are made from
//!   temporary/<kind>-<key>/   where a build works, on the same file system; renamed when it is whole
//!   locks/<kind>-<key>        held by the build of that key
//! ```
//!
//! A reader sees an object whole or not at all. A build that is killed leaves a temporary directory without a
//! holder of its lock; the next build of the same key, or `gc`, removes it.

pub mod gc;
pub mod lock;

use crate::digest;
use lock::Lock;
use machine_spec::mini_os::{File, MANIFEST, MiniOs, VERSION};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A store that is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// a file system operation failed
    #[error("{doing} {path}: {error}{hint}", hint = hint(error))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// a name with characters that could escape the store
    #[error("name {0:?} must have 1 to 64 characters from [A-Za-z0-9._-] and begin with a letter or digit")]
    Name(String),
    /// no such name
    #[error(
        "no mini-OS is named {0:?} (see `clear-mini-os list`, or make it with `clear-mini-os build --name {0}`)"
    )]
    Unknown(String),
    /// a manifest that cannot be read
    #[error("{0}: corrupt manifest: {1} (build the mini-OS again)")]
    Manifest(PathBuf, String),
    /// a file that is not what was built
    #[error("{0}: {1} (build the mini-OS again)")]
    Changed(PathBuf, String),
    /// another build did not end
    #[error("waited {1} s for another build that holds {0} (end it, then try again)")]
    Busy(PathBuf, u64),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (run as root, or name a store of your own with --store DIR)",
        io::ErrorKind::StorageFull => " (free some space, or name a store on another disk with --store DIR)",
        _ => "",
    }
}

/// Adds what was done, and to which file, to an [`io::Error`].
pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |error| StoreError::Io { doing, path: path.to_owned(), error }
}

/// A store, which need not exist yet.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A temporary directory of a build; removed unless it was [`published`](Draft::publish).
pub struct Draft {
    path: PathBuf,
}

impl Store {
    /// A store in this directory.
    pub fn new(root: PathBuf) -> Store {
        Store { root }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the object of a key is, once it is built.
    pub fn object(&self, key: &str) -> PathBuf {
        self.root.join("objects").join(key)
    }

    /// Where the kernel of a key is, once it is built.
    pub fn kernel(&self, key: &str) -> PathBuf {
        self.root.join("kernels").join(key)
    }

    /// Claims a key of a kind (`object`, `kernel`) for this process. `waiting` is called once if another has it.
    ///
    /// # Errors
    /// When the lock file cannot be made or its holder does not end.
    pub fn lock(&self, kind: &str, key: &str, waiting: impl FnOnce()) -> Result<Lock, StoreError> {
        Lock::wait(&self.lock_path(kind, key), waiting)
    }

    fn lock_path(&self, kind: &str, key: &str) -> PathBuf {
        self.root.join("locks").join(format!("{kind}-{key}"))
    }

    /// An empty directory to build in, for the holder of the key's lock. What a killed build left there is removed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn draft(&self, kind: &str, key: &str, _held: &Lock) -> Result<Draft, StoreError> {
        let path = self.root.join("temporary").join(format!("{kind}-{key}"));
        remove(&path)?;
        fs::create_dir_all(&path).map_err(at("making the directory", &path))?;
        Ok(Draft { path })
    }

    /// Points a name to an object, in one step.
    ///
    /// # Errors
    /// [`StoreError::Name`], and those of the file system.
    pub fn set_name(&self, name: &str, key: &str) -> Result<(), StoreError> {
        check_name(name)?;
        let refs = self.root.join("refs");
        fs::create_dir_all(&refs).map_err(at("making the directory", &refs))?;
        // Process ids keep two writers apart; names cannot begin with a dot, so no reader takes it for one.
        let draft = refs.join(format!(".{name}.{}", std::process::id()));
        remove(&draft)?;
        symlink(Path::new("../objects").join(key), &draft).map_err(at("making the link", &draft))?;
        let link = refs.join(name);
        fs::rename(&draft, &link).map_err(at("replacing the link", &link))
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// Those of the file system; a store that does not exist has no names.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<String> = entries(&self.root.join("refs"))?
            .into_iter()
            .filter_map(|path| path.file_name()?.to_str().map(str::to_string))
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The directory of the object that a name points to.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Unknown`], and those of the file system.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, StoreError> {
        check_name(name)?;
        let link = self.root.join("refs").join(name);
        let target = match fs::read_link(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Unknown(name.to_string()));
            }
            other => other.map_err(at("reading the link", &link))?,
        };
        let key = target.file_name().and_then(|key| key.to_str()).unwrap_or_default();
        Ok(self.object(key))
    }

    /// Reads the manifest of an object.
    ///
    /// # Errors
    /// When it is missing, is not JSON of the known shape, or has another version.
    pub fn read_manifest(&self, object: &Path) -> Result<MiniOs, StoreError> {
        let path = object.join(MANIFEST);
        let text = fs::read(&path).map_err(at("reading", &path))?;
        let corrupt = |why: String| StoreError::Manifest(path.clone(), why);
        let mini_os: MiniOs = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if mini_os.version != VERSION {
            return Err(corrupt(format!("version {} instead of {VERSION}", mini_os.version)));
        }
        Ok(mini_os)
    }

    /// Compares an object with its manifest, and returns every difference.
    pub fn check(&self, object: &Path) -> Vec<StoreError> {
        let mini_os = match self.read_manifest(object) {
            Ok(mini_os) => mini_os,
            Err(error) => return vec![error],
        };
        let files = [Some(&mini_os.kernel), mini_os.initramfs.as_ref(), mini_os.image.as_ref()];
        files.into_iter().flatten().filter_map(|file| check_file(object, file).err()).collect()
    }
}

/// Describes a file of an object under construction.
///
/// # Errors
/// Those of reading it.
pub fn describe(directory: &Path, name: &str) -> Result<File, StoreError> {
    let path = directory.join(name);
    let (sha256, size) = digest::file(&path).map_err(at("reading", &path))?;
    Ok(File { path: name.into(), sha256, size })
}

/// Compares a file with its description.
///
/// # Errors
/// [`StoreError::Changed`] or what prevents reading it.
pub fn check_file(directory: &Path, file: &File) -> Result<(), StoreError> {
    let path = directory.join(&file.path);
    let (sha256, size) = digest::file(&path).map_err(at("reading", &path))?;
    let changed = |what: String| Err(StoreError::Changed(path.clone(), what));
    if size != file.size {
        return changed(format!("has {size} bytes instead of {}", file.size));
    }
    if sha256 != file.sha256 {
        return changed(format!("has the SHA-256 {sha256} instead of {}", file.sha256));
    }
    Ok(())
}

impl Draft {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of the draft.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let write = || fs::File::create(&path)?.write_all(content);
        write().map_err(at("writing", &path))
    }

    /// Makes a part of the draft (`.` for all of it) a finished result: on disk first, then visible in one step.
    /// A damaged result of an earlier build is replaced.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn publish(self, part: &str, to: &Path) -> Result<(), StoreError> {
        let from = if part == "." { self.path.clone() } else { self.path.join(part) };
        let parent = to.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(at("making the directory", parent))?;
        sync(&from).map_err(at("writing to disk", &from))?;
        remove(to)?;
        fs::rename(&from, to).map_err(at("finishing", to))?;
        fs::File::open(parent).and_then(|d| d.sync_all()).map_err(at("writing to disk", parent))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing more can be done about a directory that cannot be removed; `gc` tries again.
        let _ = remove(&self.path);
    }
}

pub fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if first && name.len() <= 64 && name.chars().all(plain) {
        return Ok(());
    }
    Err(StoreError::Name(name.to_string()))
}

/// Removes a file, link or directory, if it is there.
fn remove(path: &Path) -> Result<(), StoreError> {
    let done = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Paths in a directory, sorted; none when it does not exist.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at("reading the directory", directory))?,
    };
    let mut paths = Vec::new();
    for entry in list {
        paths.push(entry.map_err(at("reading the directory", directory))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Writes the files of a directory, and itself, to disk.
fn sync(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            sync(&entry?.path())?;
        }
    }
    if metadata.is_symlink() { Ok(()) } else { fs::File::open(path)?.sync_all() }
}

#[cfg(test)]
mod tests;
