//! The guest's own files, as an initramfs and as an EROFS image.
//!
//! ```text
//!   /init            the agent
//!   /sbin/init       link to it, where the kernel looks when the root is a device
//!   /proc /sys /dev /run /tmp /mnt ...    mount points
//!   /lib/modules/clear.order              modules to load, in order (initramfs, kernel with modules only)
//!   + the manifest's packages and files
//! ```

pub mod cpio;
pub mod erofs;

use crate::apt;
use crate::kernel::Kernel;
use crate::manifest::Manifest;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Version of what is put into a tree; part of every object's key.
pub const FORMAT: u32 = 1;

/// Directories of every image. The root is read-only when it is an EROFS image, so they must be there.
const DIRECTORIES: &[&str] =
    &["bin", "dev", "etc", "lib", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"];

/// List of the modules that the agent loads, one absolute path a line.
const ORDER: &str = "lib/modules/clear.order";

/// Fills an empty directory with the guest's files, except for modules.
///
/// # Errors
/// apt's for the manifest's packages, and those of the file system.
pub fn fill(
    tree: &Path,
    work: &Path,
    agent: &Path,
    manifest: &Manifest,
    progress: &mut Progress,
) -> Result<()> {
    for name in DIRECTORIES {
        directory(&tree.join(name))?;
    }
    set_mode(tree, 0o755)?;
    set_mode(&tree.join("tmp"), 0o1777)?;
    if !manifest.packages.debian.is_empty() {
        progress.phase(&format!("adding packages: {}", manifest.packages.debian.join(" ")));
        apt::unpack_all(&manifest.packages.debian, work, tree, &mut |line| progress.step(line))
            .context("adding packages")?;
    }
    for file in &manifest.files {
        let target = inside(tree, &file.target)?;
        copy(&file.source, &target, file.permissions)?;
    }
    copy(agent, &tree.join("init"), 0o755)?;
    let link = tree.join("sbin/init");
    if fs::symlink_metadata(&link).is_err() {
        symlink("/init", &link).with_context(|| format!("making {}", link.display()))?;
    }
    Ok(())
}

/// Adds the modules of a kernel, and the order in which they are loaded.
///
/// # Errors
/// Those of the file system.
pub fn add_modules(tree: &Path, kernel: &Kernel) -> Result<()> {
    if kernel.description.modules.is_empty() {
        return Ok(());
    }
    let mut order = String::new();
    for module in &kernel.description.modules {
        let name = module.path.file_name().unwrap_or_default();
        let target = Path::new("lib/modules").join(&kernel.description.release).join(name);
        let whole = inside(tree, &target)?;
        copy(&kernel.directory.join(&module.path), &whole, 0o644)?;
        order.push_str(&format!("/{}\n", target.display()));
    }
    let path = tree.join(ORDER);
    fs::write(&path, order).with_context(|| format!("writing {}", path.display()))?;
    set_mode(&path, 0o644)
}

/// The path of `target` in the tree, its parent made. Links in the tree (a package may bring some) are not followed
/// out of it.
fn inside(tree: &Path, target: &Path) -> Result<PathBuf> {
    let relative = target.strip_prefix("/").unwrap_or(target);
    let mut path = tree.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => bail!("{} cannot be added: {} is not a directory", target.display(), path.display()),
            Err(_) => directory(&path)?,
        }
    }
    Ok(path.join(relative.file_name().unwrap_or_default()))
}

fn directory(path: &Path) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("making the directory {}", path.display()))?;
    set_mode(path, 0o755)
}

/// Copies a file, replacing what a package put there.
fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if fs::symlink_metadata(to).is_ok_and(|metadata| !metadata.is_dir()) {
        fs::remove_file(to).with_context(|| format!("replacing {}", to.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    set_mode(to, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the permissions of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_holds_agent_files_and_mount_points() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, agent) = (directory.path().join("tree"), directory.path().join("agent"));
        fs::create_dir(&tree).unwrap();
        fs::write(&agent, "agent").unwrap();
        let toml = directory.path().join("m.toml");
        fs::write(&toml, "[[files]]\nsource='agent'\ntarget='/etc/a/b'\nmode='0600'\n").unwrap();
        let manifest = Manifest::load(&toml).unwrap();
        fill(&tree, directory.path(), &agent, &manifest, &mut Progress::new(true)).unwrap();
        let mode = |name: &str| fs::metadata(tree.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode("init"), mode("tmp"), mode("proc"), mode("etc/a/b")], [0o755, 0o1777, 0o755, 0o600]);
        assert_eq!(fs::read_link(tree.join("sbin/init")).unwrap(), Path::new("/init"));
    }

    #[test]
    fn links_do_not_lead_out_of_the_tree() {
        let directory = tempfile::tempdir().unwrap();
        symlink("/", directory.path().join("escape")).unwrap();
        let error = inside(directory.path(), Path::new("/escape/etc/x")).unwrap_err();
        assert!(error.to_string().contains("not a directory"));
    }
}
