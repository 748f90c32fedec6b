//! Copies what a directory holds into the file system that was mounted over it (mount option `tmpcopyup`).

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::CStr;

/// Deepest directory that is copied; the descriptors of all levels are open at a time.
const MAX_DEPTH: usize = 200;

/// Copies everything below `from` to `to`, with owners and modes; `to` itself stays as it is.
///
/// # Errors
/// The first error of any call.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    copy_entries(from, to, MAX_DEPTH)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> rustix::io::Result<()> {
    copy_entries(from, to, depth)?;
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(owner(&stat)), Some(group(&stat)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, depth: usize) -> rustix::io::Result<()> {
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    for entry in rustix::fs::Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> rustix::io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let below = rustix::fs::openat(from, name, directory, Mode::empty())?;
            return copy_directory(
                &below,
                &rustix::fs::openat(to, name, directory, Mode::empty())?,
                depth - 1,
            );
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)?;
            return chown(to, name, &stat);
        }
        FileType::RegularFile => copy_file(from, to, name)?,
        // A socket is of no use without the process that made it.
        FileType::Socket | FileType::Unknown => return Ok(()),
        kind => rustix::fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?,
    }
    chown(to, name, &stat)?;
    rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    let source =
        rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    while rustix::fs::sendfile(&target, &source, None, 1 << 20)? > 0 {}
    Ok(())
}

fn chown(at: &OwnedFd, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    rustix::fs::chownat(at, name, Some(owner(stat)), Some(group(stat)), AtFlags::SYMLINK_NOFOLLOW)
}

fn owner(stat: &Stat) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(stat.st_uid)
}

fn group(stat: &Stat) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(stat.st_gid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("d/e")).unwrap();
        std::fs::write(from.path().join("d/e/f"), vec![7; 100_000]).unwrap();
        std::fs::set_permissions(from.path().join("d/e/f"), PermissionsExt::from_mode(0o4711)).unwrap();
        symlink("nowhere", from.path().join("d/link")).unwrap();
        let open = |p: &std::path::Path| {
            rustix::fs::open(p, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        copy(&open(from.path()), &open(to.path())).unwrap();
        assert_eq!(std::fs::read(to.path().join("d/e/f")).unwrap(), vec![7; 100_000]);
        assert_eq!(std::fs::metadata(to.path().join("d/e/f")).unwrap().permissions().mode() & 0o7777, 0o4711);
        assert_eq!(std::fs::read_link(to.path().join("d/link")).unwrap().to_str(), Some("nowhere"));
    }
}
