//! Makes the EROFS image that machines map into their memory.

use crate::apt;
use crate::process;
use crate::progress::Progress;
use anyhow::{Context, Result};
use std::fs::OpenOptions;
use std::path::Path;
use std::process::Command;

/// Images end on this boundary: a pmem region can be mapped with huge pages only then, and virtio-pmem asks for it.
pub const ALIGNMENT: u64 = 2 << 20;

/// The same for every image, so that equal contents are equal bytes.
const UUID: &str = "c1ea0000-0000-4000-8000-000000000001";

/// Writes a directory tree as an image: uncompressed, no inline data (both would prevent DAX), owner root, no times.
///
/// # Errors
/// When mkfs.erofs is missing or fails.
pub fn write(tree: &Path, to: &Path, progress: &mut Progress) -> Result<()> {
    apt::install(&["erofs-utils"], |names| progress.phase(&format!("installing {names}")))?;
    progress.phase("making the image");
    let mut mkfs = Command::new("mkfs.erofs");
    mkfs.args(["-E", "noinline_data", "-T", "0", "-U", UUID, "--all-root", "-x-1"]).arg(to).arg(tree);
    process::run(
        &mut mkfs,
        "free some space, or name a store on another disk with --store DIR",
        &mut |_| {},
    )?;
    let doing = || format!("padding {}", to.display());
    let file = OpenOptions::new().write(true).open(to).with_context(doing)?;
    let size = file.metadata().with_context(doing)?.len().next_multiple_of(ALIGNMENT);
    file.set_len(size).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn images_are_aligned_and_reproducible() {
        if apt::installed_version("erofs-utils").is_none() {
            eprintln!("skipped: erofs-utils is not installed");
            return;
        }
        let images: Vec<Vec<u8>> = [["a", "b", "c"], ["c", "a", "b"]]
            .iter()
            .map(|names| {
                let directory = tempfile::tempdir().unwrap();
                let (tree, image) = (directory.path().join("tree"), directory.path().join("image"));
                fs::create_dir(&tree).unwrap();
                for name in names {
                    fs::write(tree.join(name), name.repeat(10_000)).unwrap();
                }
                write(&tree, &image, &mut Progress::new(true)).unwrap();
                fs::read(image).unwrap()
            })
            .collect();
        assert_eq!(images[0].len() as u64, ALIGNMENT);
        // Superblock magic, at byte 1024 of the image.
        assert_eq!(images[0][1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
        assert!(images[0] == images[1], "two trees with the same content gave different images");
    }
}
