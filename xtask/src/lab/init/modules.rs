//! What comes before the host's root when the kernel has modules: this program runs from an initramfs then.

use super::mounts;
use crate::lab::initramfs::INIT;
use crate::lab::machine::{CACHE, ROOT_TAG, TRANSPORT};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Absolute paths of modules in the order in which they are loaded, one a line, as `clear-mini-os` writes it.
const ORDER: &str = "/lib/modules/clear.order";

/// Where the host's root is mounted from an initramfs.
const HOST: &str = "/host";

/// Mounts what finding devices takes, loads modules, and returns where the host's root is.
///
/// # Errors
/// mount(2)'s. A module that does not load is told on the console and left out.
pub fn load() -> Result<PathBuf> {
    let own = std::env::args_os().next();
    if own.as_deref() != Some(INIT.as_ref()) {
        // The kernel has everything, mounted the host's root, and /dev on it.
        mounts::kernel_views()?;
        return Ok("/".into());
    }
    for directory in ["/proc", "/sys", "/dev", "/run", HOST] {
        mounts::make(Path::new(directory))?;
    }
    mounts::kernel_views()?;
    mounts::put("devtmpfs", "/dev", "")?;
    let order = fs::read_to_string(ORDER).with_context(|| format!("reading {ORDER}"))?;
    // What follows a path are parameters; our modules have none.
    for path in order.lines().filter_map(|line| line.split_whitespace().next()) {
        if let Err(error) = load_one(Path::new(path)) {
            eprintln!("lab: {error:#}");
        }
    }
    mounts::mount_named(ROOT_TAG, "9p", Path::new(HOST), &format!("{TRANSPORT},{CACHE}"))?;
    Ok(HOST.into())
}

fn load_one(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    rustix::system::finit_module(&file, c"", 0).with_context(|| format!("loading {}", path.display()))
}
