//! A bundle as engines hand it over: read once, checked, and surveyed, so that the plan needs no I/O.
//!
//! ```text
//!   BUNDLE/config.json ──► lenient: what oci-spec must not see ──► Spec ──► rootfs, bind sources and disks looked at ──► Bundle
//! ```
//!
//! Callers: `cor create`, `run` and `plan`; golden tests build a [`Bundle`] by hand with [`Bundle::new`].

mod host_disks;
mod lenient;
mod sources;
mod spec;
pub(crate) mod text;

pub use host_disks::{HostDisk, host_disks};
pub use lenient::{Extra, parse, parse_process};
pub use sources::{SourceKind, Sources, bind_source, survey};
pub use spec::{rootless_spec, spec};

use crate::bundle::text::one_line;
use oci_spec::runtime::Spec;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest `config.json` that is read, in bytes. Real ones have 10 to 100 KiB; seccomp is the largest part.
pub const MAX_CONFIG: u64 = 4 << 20;

/// A bundle that was read and surveyed.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Absolute path of the bundle.
    pub dir: PathBuf,
    /// Absolute path of the root file system: a directory, no symbolic link.
    pub rootfs: PathBuf,
    /// The configuration.
    pub spec: Spec,
    /// Parts of the configuration that oci-spec has no type for.
    pub extra: Extra,
    /// What the sources of bind mounts are, by absolute path.
    pub sources: Sources,
    /// The host's block devices that it names.
    pub disks: Vec<HostDisk>,
}

/// A bundle that cannot be used. Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// reading bundle {0:?}: {1}
    #[error("reading bundle {0:?}: {1}; --bundle must name a directory with config.json")]
    Directory(PathBuf, std::io::Error),
    /// reading {0:?}: {1}
    #[error("reading {0:?}: {1}")]
    Read(PathBuf, std::io::Error),
    /// config.json does not exist
    #[error("JSON specification file config.json not found in bundle {0:?}; `cor spec` makes one")]
    NoConfig(PathBuf),
    /// config.json is too large
    #[error(
        "config.json has more than {MAX_CONFIG} bytes, the limit; it cannot be a container's configuration"
    )]
    TooLarge,
    /// config.json is no JSON
    #[error("config.json: not JSON: {0}")]
    Syntax(String),
    /// A value has the wrong shape.
    #[error("config.json: {path}: {problem}")]
    Value {
        /// JSON path, for example `process.user.uid`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another major version of the specification.
    #[error(
        "config.json: ociVersion: {0:?} is not supported; this program speaks 1.x of the OCI runtime specification"
    )]
    Version(String),
    /// The root file system cannot be used. The first words are runc's, some callers look for them.
    #[error("config.json: root.path: invalid rootfs {path:?}: {problem}")]
    Rootfs {
        /// Absolute path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl BundleError {
    /// A wrong value at a JSON path.
    pub(crate) fn value(path: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        BundleError::Value { path: one_line(&path.into()), problem: one_line(&problem.to_string()) }
    }
}

impl Bundle {
    /// Puts a bundle together from what was read: `config` is the text of `config.json`, `sources` the survey. No block device
    /// of the host is known to it.
    ///
    /// # Errors
    /// When the configuration is malformed.
    pub fn new(dir: PathBuf, config: &[u8], sources: Sources) -> Result<Bundle, BundleError> {
        let (spec, extra) = parse(config)?;
        let root = spec
            .root()
            .as_ref()
            .ok_or_else(|| BundleError::value("root", "missing; a container needs one"))?;
        if root.path().as_os_str().is_empty() {
            return Err(BundleError::value("root.path", "must not be empty"));
        }
        let rootfs = lexically_clean(&dir.join(root.path()));
        Ok(Bundle { dir, rootfs, spec, extra, sources, disks: Vec::new() })
    }
}

/// Reads and surveys the bundle in `dir`.
///
/// # Errors
/// When it cannot be read, the configuration is malformed, or the root file system is no plain directory.
pub fn load(dir: &Path) -> Result<Bundle, BundleError> {
    let dir = fs::canonicalize(dir).map_err(|e| BundleError::Directory(dir.to_path_buf(), e))?;
    let text = read_config(&dir)?;
    let mut bundle = Bundle::new(dir, &text, Sources::default())?;
    check_rootfs(&bundle.rootfs)?;
    bundle.sources = survey(&bundle.dir, &bundle.spec);
    bundle.disks = host_disks(&bundle.spec, &bundle.sources);
    Ok(bundle)
}

fn read_config(dir: &Path) -> Result<Vec<u8>, BundleError> {
    let path = dir.join("config.json");
    let file = fs::File::open(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => BundleError::NoConfig(dir.to_path_buf()),
        _ => BundleError::Read(path.clone(), e),
    })?;
    let mut text = Vec::new();
    // One byte more than allowed tells a file of exactly the limit from a longer one.
    file.take(MAX_CONFIG + 1).read_to_end(&mut text).map_err(|e| BundleError::Read(path, e))?;
    if text.len() as u64 > MAX_CONFIG { Err(BundleError::TooLarge) } else { Ok(text) }
}

/// The last component must be a directory itself: an engine that hands over a link could point us anywhere later.
fn check_rootfs(path: &Path) -> Result<(), BundleError> {
    let error = |problem: String| BundleError::Rootfs { path: path.to_path_buf(), problem };
    let found = fs::symlink_metadata(path).map_err(|e| error(e.to_string()))?;
    if found.is_symlink() {
        return Err(error("not an absolute path, or a symlink".into()));
    }
    if !found.is_dir() {
        return Err(error("not a directory".into()));
    }
    Ok(())
}

/// Folds `.` and `..` without looking at the file system; `..` never leaves the root.
pub(crate) fn lexically_clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        dir
    }

    #[test]
    fn a_bundle_is_read_with_what_its_mounts_need() {
        let dir = bundle(
            r#"{"ociVersion":"1.3.0","root":{"path":"r"},"mounts":[
                {"destination":"/d","source":"r","options":["bind"]},
                {"destination":"/f","type":"bind","source":"/etc/passwd"},
                {"destination":"/n","type":"bind","source":"/dev/null"},
                {"destination":"/m","type":"bind","source":"/does/not/exist"},
                {"destination":"/t","type":"tmpfs","source":"tmpfs"}]}"#,
        );
        fs::create_dir(dir.path().join("r")).unwrap();
        let loaded = load(dir.path()).unwrap();
        let root = fs::canonicalize(dir.path()).unwrap().join("r");
        assert_eq!(loaded.rootfs, root);
        let kinds: Vec<_> =
            loaded.sources.iter().map(|(path, kind)| (path.to_str().unwrap(), *kind)).collect();
        assert_eq!(kinds.len(), 4);
        assert!(matches!(loaded.sources[&root], SourceKind::Directory { .. }));
        assert_eq!(loaded.sources[Path::new("/etc/passwd")], SourceKind::File);
        assert_eq!(loaded.sources[Path::new("/dev/null")], SourceKind::Char { major: 1, minor: 3 });
        assert_eq!(loaded.sources[Path::new("/does/not/exist")], SourceKind::Missing);
    }

    #[test]
    fn each_fault_has_its_sentence() {
        let refused = |config: &str| load(bundle(config).path()).unwrap_err().to_string();
        assert!(
            refused(r#"{"ociVersion":"1.0.0","root":{"path":"r"}}"#).contains("root.path: invalid rootfs")
        );
        assert!(refused(r#"{"ociVersion":"1.0.0"}"#).contains("root: missing"));
        assert!(refused("{").starts_with("config.json: not JSON: EOF"));
        let empty = tempfile::tempdir().unwrap();
        assert!(load(empty.path()).unwrap_err().to_string().contains("config.json not found"));
        assert!(load(&empty.path().join("no")).unwrap_err().to_string().contains("--bundle must name"));
        let dir = bundle(r#"{"ociVersion":"1.0.0","root":{"path":"r"}}"#);
        std::os::unix::fs::symlink("/tmp", dir.path().join("r")).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().ends_with("not an absolute path, or a symlink"));
        fs::remove_file(dir.path().join("r")).unwrap();
        fs::write(dir.path().join("r"), "").unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().ends_with("not a directory"));
    }

    #[test]
    fn a_config_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("config.json")).unwrap();
        file.set_len(MAX_CONFIG + 1).unwrap();
        assert!(matches!(load(dir.path()), Err(BundleError::TooLarge)));
    }

    #[test]
    fn paths_are_folded_below_the_root() {
        assert_eq!(lexically_clean(Path::new("/a/./b/../../../c//d/")), Path::new("/c/d"));
        assert_eq!(lexically_clean(Path::new("a/..")), Path::new("/"));
    }
}
