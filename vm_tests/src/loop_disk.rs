//! A block device of the host: a loop device over a file.

use crate::command::Command;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A loop device over a file of its own. It is detached when this is dropped.
#[derive(Debug)]
pub struct LoopDisk {
    node: String,
    image: PathBuf,
}

impl LoopDisk {
    /// Makes a disk of `bytes` zeros in the file `image`; `options` are losetup's.
    ///
    /// # Panics
    /// When the host has no loop devices, or this process no right to them.
    pub fn new(image: &Path, bytes: u64, options: &[&str]) -> Self {
        fs::File::create(image).and_then(|file| file.set_len(bytes)).expect("an image");
        let node = Command::new("losetup").args(["--find", "--show"]).args(options).arg(image).ok();
        LoopDisk { node, image: image.to_path_buf() }
    }

    /// Its node on the host.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Major and minor on the host.
    ///
    /// # Panics
    /// When the node is gone.
    pub fn number(&self) -> (u32, u32) {
        let number = fs::metadata(&self.node).expect("the node of a disk").rdev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    }

    /// What is on it, as the host has it.
    ///
    /// # Panics
    /// When the image is gone.
    pub fn bytes(&self) -> Vec<u8> {
        Command::new("blockdev").args(["--flushbufs", &self.node]).ok();
        fs::read(&self.image).expect("the image of a disk")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        Command::new("losetup").arg("--detach").arg(&self.node).run();
    }
}
