//! Writes an initramfs: a cpio archive in the "newc" form (kernel: `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! The same tree gives the same bytes: sorted names, owner root, no times.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// `S_IFCHR`.
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction.
struct Archive<W> {
    to: W,
    inode: u32,
    length: u64,
}

/// What precedes the content of an entry.
#[derive(Default)]
struct Header<'a> {
    name: &'a [u8],
    mode: u32,
    size: u32,
    /// Major and minor number of a device.
    device: (u32, u32),
}

/// Writes a directory tree as an archive.
///
/// # Errors
/// Those of reading the tree and writing the archive; sockets and files over 4 GiB cannot be stored.
pub fn write(tree: &Path, to: &Path) -> Result<()> {
    let file = File::create(to).with_context(|| format!("writing {}", to.display()))?;
    let mut archive = Archive { to: io::BufWriter::new(file), inode: 0, length: 0 };
    archive.directory(tree, Path::new(""))?;
    archive
        .finish()
        .and_then(|writer| writer.into_inner()?.sync_all())
        .with_context(|| format!("writing {}", to.display()))
}

impl<W: Write> Archive<W> {
    fn directory(&mut self, tree: &Path, relative: &Path) -> Result<()> {
        let path = tree.join(relative);
        let doing = || format!("reading {}", path.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).with_context(doing)? {
            names.push(entry.with_context(doing)?.file_name());
        }
        names.sort();
        for name in names {
            let relative = relative.join(name);
            let doing = || format!("adding /{} to the initramfs", relative.display());
            let metadata = fs::symlink_metadata(tree.join(&relative)).with_context(doing)?;
            self.entry(tree, &relative, &metadata).with_context(doing)?;
            if relative == Path::new("dev") {
                self.devices().with_context(doing)?;
            }
            if metadata.is_dir() {
                self.directory(tree, &relative)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, tree: &Path, relative: &Path, metadata: &fs::Metadata) -> Result<()> {
        let path = tree.join(relative);
        let kind = metadata.file_type();
        let header =
            Header { name: relative.as_os_str().as_bytes(), mode: metadata.mode(), ..Header::default() };
        if kind.is_symlink() {
            let target = fs::read_link(&path)?;
            let target = target.as_os_str().as_bytes();
            return Ok(self.bytes(header, target)?);
        }
        if kind.is_file() {
            let size = u32::try_from(metadata.len()).context("it is longer than 4 GiB")?;
            self.header(&Header { size, ..header })?;
            let copied = io::copy(&mut File::open(&path)?, &mut self.to)?;
            if copied != u64::from(size) {
                bail!("it changed while it was read");
            }
            self.length += copied;
            return Ok(self.pad()?);
        }
        if kind.is_dir() || kind.is_fifo() {
            return Ok(self.header(&header)?);
        }
        bail!("it is neither file, directory, link nor pipe")
    }

    /// The devices that a program has before it mounts anything.
    fn devices(&mut self) -> io::Result<()> {
        for (name, mode, device) in [("dev/console", 0o600, (5, 1)), ("dev/null", 0o666, (1, 3))] {
            self.header(&Header { name: name.as_bytes(), mode: CHARACTER_DEVICE | mode, size: 0, device })?;
        }
        Ok(())
    }

    fn bytes(&mut self, header: Header, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        self.header(&Header { size, ..header })?;
        self.to.write_all(content)?;
        self.length += u64::from(size);
        self.pad()
    }

    fn header(&mut self, header: &Header) -> io::Result<()> {
        self.inode += 1;
        let links = if header.mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let name_size = u32::try_from(header.name.len() + 1).map_err(io::Error::other)?;
        write!(self.to, "070701")?;
        let (major, minor) = header.device;
        // inode, mode, uid, gid, links, mtime, size, device of the file (2), device number (2), name size, check
        for field in [self.inode, header.mode, 0, 0, links, 0, header.size, 0, 0, major, minor, name_size, 0]
        {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(header.name)?;
        self.to.write_all(b"\0")?;
        self.length += 110 + u64::from(name_size);
        self.pad()
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.length.is_multiple_of(4) {
            self.to.write_all(b"\0")?;
            self.length += 1;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.header(&Header { name: b"TRAILER!!!", ..Header::default() })?;
        self.to.flush()?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    fn tree(order: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in order {
            let path = directory.path().join(name);
            if name.ends_with('/') {
                fs::create_dir(&path).unwrap();
            } else {
                fs::write(&path, name).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        symlink("init", directory.path().join("link")).unwrap();
        directory
    }

    fn archive(tree: &Path) -> Vec<u8> {
        let to = tempfile::NamedTempFile::new().unwrap();
        write(tree, to.path()).unwrap();
        fs::read(to.path()).unwrap()
    }

    #[test]
    fn same_tree_gives_same_bytes() {
        let (one, two) = (tree(&["dev/", "init", "a/", "a/x"]), tree(&["a/", "a/x", "init", "dev/"]));
        assert_eq!(archive(one.path()), archive(two.path()));
    }

    #[test]
    fn first_entry_is_as_the_format_says() {
        let bytes = archive(tree(&["init"]).path());
        let expected = "070701\
            00000001000081ed000000000000000000000001000000000000000400000000000000000000000000000000\
            0000000500000000init\0\0init";
        assert_eq!(String::from_utf8_lossy(&bytes[..expected.len()]), expected);
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn cpio_reads_it() {
        let bytes = archive(tree(&["dev/", "init", "a/", "a/x"]).path());
        let spawned = Command::new("cpio")
            .arg("-tv")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut cpio) = spawned else {
            eprintln!("cpio is not installed; the form was checked by the other tests only");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let names: Vec<&str> = output.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
        assert_eq!(names, ["a", "a/x", "dev", "dev/console", "dev/null", "init", "init"], "{output}");
        assert!(output.contains("crw-------   1 root     root       5,   1"), "{output}");
        assert!(output.contains("link -> init"), "{output}");
    }
}
