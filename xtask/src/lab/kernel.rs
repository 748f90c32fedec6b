//! Finds the kernel to boot: in the store of `clear-mini-os`, or a file.

use anyhow::{Context, Result, bail};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Mini-OSes whose kernels are meant for this, the better one first: ours has everything built in, Debian's has modules.
const NAMES: [&str; 2] = ["lab-host", "lab-debian"];

/// Where `clear-mini-os` puts what it builds, and the variable that says another place.
const STORE: &str = "/var/lib/clear-containers/mini-os";
const STORE_VARIABLE: &str = "CLEAR_MINI_OS_STORE";

/// How to get one.
const FIX: &str = "build it: `clear-mini-os build --kernel source --profile lab-host`, some minutes of compiling; or without \
compiling, slower at every boot: `clear-mini-os build --name lab-debian --manifest xtask/lab-debian.toml`";

/// A kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Uncompressed ELF.
    pub image: PathBuf,
    /// An archive with modules, and the order in which to load them, in `lib/modules`. `None` when nothing is a module.
    pub modules: Option<PathBuf>,
}

/// Finds a kernel by its mini-OS's name or as a path; without one, the best that there is.
///
/// # Errors
/// None there, and how to build it.
pub fn find(name: Option<&str>) -> Result<Kernel> {
    let store = std::env::var_os(STORE_VARIABLE).filter(|value| !value.is_empty());
    find_in(&store.map_or_else(|| STORE.into(), PathBuf::from), name)
}

fn find_in(store: &Path, name: Option<&str>) -> Result<Kernel> {
    if let Some(path) = name.filter(|name| name.contains('/')) {
        let image = Path::new(path).canonicalize().with_context(|| format!("--kernel {path}"))?;
        return Ok(Kernel { image, modules: None });
    }
    let names = name.map_or(NAMES.to_vec(), |name| vec![name]);
    for name in &names {
        let object = store.join("refs").join(name);
        let manifest = object.join("manifest.json");
        match fs::read(&manifest) {
            Ok(text) => {
                return read(&object, &text)
                    .with_context(|| format!("the kernel {name} at {}", object.display()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", manifest.display())),
        }
    }
    bail!("there is no kernel {} in {} ({FIX})", names.join(" or "), store.display())
}

/// What a mini-OS's manifest says of its kernel. The lab is no guest of ours, so it reads no more than that.
fn read(object: &Path, manifest: &[u8]) -> Result<Kernel> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).context("reading its manifest")?;
    let file = |name: &str| -> Result<Option<PathBuf>> {
        let Some(file) = manifest[name]["path"].as_str() else { return Ok(None) };
        let path = object.join(file);
        Ok(Some(path.canonicalize().with_context(|| format!("finding {}", path.display()))?))
    };
    let image = file("kernel")?.context("its manifest names no kernel")?;
    let modular = manifest["origin"] == "debian";
    Ok(Kernel { image, modules: if modular { file("initramfs")? } else { None } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Path, name: &str, manifest: &str) -> PathBuf {
        let object = store.join("refs").join(name);
        fs::create_dir_all(&object).unwrap();
        for (file, text) in [("manifest.json", manifest), ("vmlinux", ""), ("initramfs.cpio", "")] {
            fs::write(object.join(file), text).unwrap();
        }
        object.canonicalize().unwrap()
    }

    #[test]
    fn the_best_kernel_of_the_store_or_a_file() {
        let store = tempfile::tempdir().unwrap();
        let initramfs = r#""kernel": {"path": "vmlinux"}, "initramfs": {"path": "initramfs.cpio"}"#;
        let debian = put(store.path(), "lab-debian", &format!(r#"{{"origin": "debian", {initramfs}}}"#));
        let found = find_in(store.path(), None).unwrap();
        assert_eq!(
            found,
            Kernel { image: debian.join("vmlinux"), modules: Some(debian.join("initramfs.cpio")) }
        );
        let ours = put(store.path(), "lab-host", &format!(r#"{{"origin": "source:lab-host", {initramfs}}}"#));
        let found = find_in(store.path(), None).unwrap();
        assert_eq!(found, Kernel { image: ours.join("vmlinux"), modules: None });
        let path = ours.join("vmlinux");
        assert_eq!(
            find_in(Path::new("/nowhere"), path.to_str()).unwrap(),
            Kernel { image: path, modules: None }
        );
    }

    #[test]
    fn a_missing_kernel_says_how_to_build_it() {
        let store = tempfile::tempdir().unwrap();
        let error = find_in(store.path(), None).unwrap_err().to_string();
        assert!(error.contains("clear-mini-os build --kernel source --profile lab-host"), "{error}");
        let object = put(store.path(), "lab-host", r#"{"kernel": {"path": "vmlinux"}}"#);
        fs::remove_file(object.join("vmlinux")).unwrap();
        let error = format!("{:#}", find_in(store.path(), Some("lab-host")).unwrap_err());
        assert!(error.contains("finding") && error.contains("vmlinux"), "{error}");
    }
}
