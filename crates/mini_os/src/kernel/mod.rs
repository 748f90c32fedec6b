//! Kernels: from Debian's package or compiled from Debian's source, kept in `kernels/<key>`.
//!
//! ```text
//!   debian: apt ─► vmlinuz ─(bzimage)─► vmlinux      modules/*.ko in load order
//!   source: fragments ─(config)─► .config ─► make ─► vmlinux, no modules
//! ```

pub mod bzimage;
pub mod config;
pub mod debian;
pub mod modules;
pub mod source;

use crate::progress::Progress;
use crate::store::{self, Draft, Store, lock::Lock};
use anyhow::{Context, Result, bail};
use machine_spec::mini_os::{Features, File};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Version of [`Description`] and of how kernels are made; part of every kernel's key.
pub const FORMAT: u32 = 1;

/// File name of a [`Description`].
const DESCRIPTION: &str = "kernel.json";

/// A kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// [`FORMAT`] of the program that made it.
    pub format: u32,
    /// As in the mini-OS's manifest.
    pub origin: String,
    /// `uname -r`.
    pub release: String,
    /// The kernel.
    pub vmlinux: File,
    /// Modules, in the order in which they are loaded.
    pub modules: Vec<File>,
}

/// A finished kernel. It cannot be collected as garbage while this exists.
pub struct Kernel {
    /// Hash of what went into it.
    pub key: String,
    /// Where its files are.
    pub directory: PathBuf,
    /// What it is.
    pub description: Description,
    /// What it can do without modules.
    pub features: Features,
    _held: Lock,
}

/// Fills a draft with `vmlinux`, `config` and `modules/`, and returns the origin, the release and the modules in order.
pub type Make<'a> = dyn FnMut(&Draft, &mut Progress) -> Result<(String, String, Vec<String>)> + 'a;

/// Returns the kernel of a key, made by `make` unless it is in the store, whole.
///
/// # Errors
/// Those of `make` and of the store.
pub fn obtain(store: &Store, key: &str, progress: &mut Progress, make: &mut Make) -> Result<Kernel> {
    let waiting = || progress.phase("waiting for another build of the same kernel");
    let held = store.lock("kernel", key, waiting)?;
    let directory = store.kernel(key);
    if let Ok(description) = load(&directory) {
        progress.phase(&format!("using kernel {} from the cache", description.release));
        return finish(key, directory, description, held);
    }
    let draft = store.draft("kernel", key, &held)?;
    let result = draft.path().join("result");
    fs::create_dir_all(result.join("modules")).with_context(|| format!("making {}", result.display()))?;
    let (origin, release, modules) = make(&draft, progress)?;
    let modules = modules.iter().map(|name| store::describe(&result, &format!("modules/{name}")));
    let modules = modules.collect::<Result<_, _>>()?;
    let vmlinux = store::describe(&result, "vmlinux")?;
    let description = Description { format: FORMAT, origin, release, vmlinux, modules };
    draft.write(&format!("result/{DESCRIPTION}"), &serde_json::to_vec_pretty(&description)?)?;
    draft.publish("result", &directory)?;
    finish(key, directory, description, held)
}

fn finish(key: &str, directory: PathBuf, description: Description, held: Lock) -> Result<Kernel> {
    let config = directory.join("config");
    let text = fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
    Ok(Kernel { key: key.into(), directory, description, features: config::features(&text), _held: held })
}

/// Reads the description of a cached kernel and compares its files with it.
fn load(directory: &Path) -> Result<Description> {
    let description: Description = serde_json::from_slice(&fs::read(directory.join(DESCRIPTION))?)?;
    for file in description.modules.iter().chain([&description.vmlinux]) {
        store::check_file(directory, file)?;
    }
    Ok(description)
}

/// Refuses to begin what the disk cannot hold.
fn check_space(path: &Path, needed: u64) -> Result<()> {
    let space =
        rustix::fs::statvfs(path).with_context(|| format!("reading the space at {}", path.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < needed {
        let (free, needed) = (free >> 20, needed >> 20);
        let what = format!(
            "making the kernel at {} needs {needed} MiB of space, {free} MiB are free",
            path.display()
        );
        bail!("{what} (free some, or name a store on another disk with --store DIR)");
    }
    Ok(())
}

/// SHA-256 of a cached kernel's `vmlinux`, if it can be told.
pub fn hash_of(directory: &Path) -> Option<String> {
    let text = fs::read(directory.join(DESCRIPTION)).ok()?;
    Some(serde_json::from_slice::<Description>(&text).ok()?.vmlinux.sha256)
}
