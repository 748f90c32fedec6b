//! The archive from which a kernel with modules starts: its modules, and this program with the libraries it was linked to.
//! It exists in memory only.
//!
//! ```text
//!   initramfs.cpio of the mini-OS      lib/modules/clear.order, lib/modules/*.ko
//!   ours, appended to it               lab-init, lib64/ld-linux-x86-64.so.2, lib/x86_64-linux-gnu/libc.so.6, ...
//! ```
//! Format: "newc", `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel, which takes several archives in a row.

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where this program is in the archive.
pub const INIT: &str = "/lab-init";

/// `S_IFDIR | 0755` and `S_IFREG | 0755`.
const DIRECTORY: u32 = 0o40755;
const PROGRAM: u32 = 0o100_755;

/// Makes the archive.
///
/// # Errors
/// A file that cannot be read, or a program whose libraries cannot be found.
pub fn make(modules: &Path, program: &Path) -> Result<File> {
    let mut archive =
        File::from(memfd_create("clear-lab", MemfdFlags::CLOEXEC).context("making an archive in memory")?);
    let mut source = File::open(modules).with_context(|| format!("reading {}", modules.display()))?;
    let length =
        io::copy(&mut source, &mut archive).with_context(|| format!("reading {}", modules.display()))?;
    // Each archive starts at a multiple of four bytes.
    archive
        .write_all(&vec![0; (length.next_multiple_of(4) - length) as usize])
        .context("writing to memory")?;
    let mut files = BTreeMap::from([(PathBuf::from(INIT), program.to_owned())]);
    for library in libraries(program)? {
        files.insert(library.clone(), library);
    }
    let mut directories: Vec<_> = files.keys().flat_map(|path| path.ancestors().skip(1)).collect();
    directories.sort();
    directories.dedup();
    for directory in directories.iter().filter(|path| **path != Path::new("/")) {
        archive.write_all(&entry(directory, DIRECTORY, &[])).context("writing to memory")?;
    }
    for (place, source) in &files {
        let content = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        archive.write_all(&entry(place, PROGRAM, &content)).context("writing to memory")?;
    }
    archive.write_all(&entry(Path::new("TRAILER!!!"), 0, &[])).context("writing to memory")?;
    Ok(archive)
}

/// The loader and the libraries of a program, as ldd(1) finds them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    ensure!(output.status.success(), "ldd {}: {}", program.display(), output.status);
    Ok(paths(&String::from_utf8_lossy(&output.stdout)))
}

/// Paths in ldd's answer; what the kernel itself provides has none.
fn paths(answer: &str) -> Vec<PathBuf> {
    let words = answer.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// One entry: 14 numbers in hexadecimal, name, content, each part filled up to four bytes.
fn entry(path: &Path, mode: u32, content: &[u8]) -> Vec<u8> {
    let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
    let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    let numbers = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut entry = b"070701".to_vec();
    entry.extend(numbers.iter().flat_map(|number| format!("{number:08X}").into_bytes()));
    for part in [&[name, &[0]].concat(), content] {
        entry.extend(part);
        entry.resize(entry.len().next_multiple_of(4), 0);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};
    use std::process::Stdio;

    #[test]
    fn libraries_are_found() {
        let answer = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(
            paths(answer),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert_eq!(paths("\tstatically linked\n"), [] as [PathBuf; 0]);
    }

    #[test]
    fn cpio_reads_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let modules = directory.path().join("modules");
        fs::write(&modules, entry(Path::new("/lib/modules/clear.order"), PROGRAM, b"a.ko\n")).unwrap();
        let own = std::env::current_exe().unwrap();
        let mut archive = make(&modules, &own).unwrap();
        archive.rewind().unwrap();
        let mut child = Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(Stdio::from(archive))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut list = String::new();
        child.stdout.take().unwrap().read_to_string(&mut list).unwrap();
        assert!(child.wait().unwrap().success());
        let names: Vec<_> = list.lines().collect();
        assert_eq!(
            (names.first(), names.contains(&"lab-init")),
            (Some(&"lib/modules/clear.order"), true),
            "{list}"
        );
        assert!(names.iter().any(|name| name.contains("libc.so")), "{list}");
    }
}
