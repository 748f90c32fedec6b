//! What `clear-mini-os` builds and a machine boots: the contract between the two programs.
//!
//! ```text
//!   STORE/objects/<hash>/manifest.json   this [`MiniOs`], file names relative to its directory
//!                        vmlinux, initramfs.cpio, image.erofs
//!   STORE/refs/<name> ──► ../objects/<hash>    names people use; `default` is used when none is named
//! ```

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of the manifest. A reader refuses every other value, and ignores fields that it does not know: programs
/// of several versions share a store, and a newer one may only add.
pub const VERSION: u32 = 1;

/// Name of the manifest in an object's directory.
pub const MANIFEST: &str = "manifest.json";

/// Name that is used when none is given.
pub const DEFAULT_NAME: &str = "default";

/// Where the system-wide store is.
pub const STORE: &str = "/var/lib/clear-containers/mini-os";

/// Environment variable that names another store.
pub const STORE_VARIABLE: &str = "CLEAR_MINI_OS_STORE";

/// A bootable mini-OS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MiniOs {
    /// Must be [`VERSION`].
    pub version: u32,
    /// Where the kernel came from and how it was configured, for example `debian` or `source:container`.
    pub origin: String,
    /// GNU name of the CPU architecture, for example `x86_64`.
    pub arch: String,
    /// `uname -r` of the kernel.
    pub release: String,
    /// The kernel, an uncompressed ELF image.
    pub kernel: File,
    /// Agent (and modules) as initial RAM file system.
    pub initramfs: Option<File>,
    /// Agent as EROFS image, a multiple of 2 MiB, without compression or inline data, so that DAX works.
    pub image: Option<File>,
    /// What the kernel can do without modules.
    pub features: Features,
}

/// One file of a mini-OS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative to the manifest in a stored manifest; made absolute by who reads it.
    pub path: PathBuf,
    /// SHA-256 of the content, lower-case hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
}

/// What a kernel can do without modules, found in its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features {
    /// `CONFIG_VIRTIO_MMIO=y` and `CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y`: boots on a board without firmware tables.
    pub virtio_mmio: bool,
    /// `CONFIG_VIRTIO_BLK=y` and `CONFIG_EROFS_FS=y`: the image can be the root on a disk.
    pub block_root: bool,
    /// `CONFIG_VIRTIO_PMEM=y` (or NFIT), `CONFIG_FS_DAX=y` and `CONFIG_EROFS_FS=y`: the image can be a DAX root.
    pub dax_root: bool,
    /// `CONFIG_VIRTIO_PCI=y`, `CONFIG_VIRTIO_VSOCKETS=y` and `CONFIG_VIRTIO_FS=y`: boots on clear-vmm.
    #[serde(default)]
    pub clear: bool,
}
