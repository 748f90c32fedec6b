//! What the sources of bind mounts are, looked up once before planning.

use super::lexically_clean;
use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Kinds by absolute path of the source.
pub type Sources = BTreeMap<PathBuf, SourceKind>;

/// What a path on the host is, symbolic links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A directory.
    Directory {
        /// Its file system's size in bytes, if that is a tmpfs: then its content is memory, not files.
        tmpfs_bytes: Option<u64>,
    },
    /// A regular file.
    File,
    /// A UNIX socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Nothing there, or nothing that may be looked at.
    Missing,
}

/// `f_type` of a tmpfs (`TMPFS_MAGIC` of `include/uapi/linux/magic.h`).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// The absolute source of a mount, if it is a bind mount. A relative one is below the bundle, as with runc.
pub fn bind_source(bundle: &Path, mount: &Mount) -> Option<PathBuf> {
    let option = |name: &str| mount.options().iter().flatten().any(|o| o == name);
    let bind = mount.typ().as_deref() == Some("bind") || option("bind") || option("rbind");
    let source = mount.source().as_ref()?;
    bind.then(|| lexically_clean(&bundle.join(source)))
}

/// Looks at the source of every bind mount of `spec`.
pub fn survey(bundle: &Path, spec: &Spec) -> Sources {
    let mounts = spec.mounts().iter().flatten();
    mounts.filter_map(|mount| bind_source(bundle, mount)).map(|path| (path.clone(), kind_of(&path))).collect()
}

fn kind_of(path: &Path) -> SourceKind {
    let Ok(found) = std::fs::metadata(path) else { return SourceKind::Missing };
    let kind = found.file_type();
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    if kind.is_dir() {
        SourceKind::Directory { tmpfs_bytes: tmpfs_bytes(path) }
    } else if kind.is_socket() {
        SourceKind::Socket
    } else if kind.is_fifo() {
        SourceKind::Fifo
    } else if kind.is_char_device() {
        SourceKind::Char { major, minor }
    } else if kind.is_block_device() {
        SourceKind::Block { major, minor }
    } else {
        SourceKind::File
    }
}

fn tmpfs_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statfs(path).ok()?;
    (found.f_type == TMPFS_MAGIC).then(|| found.f_blocks.saturating_mul(found.f_bsize as u64))
}
