//! Paths inside a container's root, as the container sees them, resolved from outside without ever leaving it.
//!
//! ```text
//!   "/var/run/x" ─► walk one name at a time, symbolic links by hand ─► "run" exists, "x" is missing ─► open, or make and open
//! ```
//!
//! The last step opens with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, so a link that appears meanwhile is an error, no escape.

use crate::error::{Doing, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::collections::VecDeque;

/// As the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;

/// A directory that is, or becomes, somebody's root.
pub struct Root(OwnedFd);

/// A path without symbolic links, `.` or `..`.
#[derive(Debug, PartialEq, Eq)]
struct Resolved {
    names: Vec<String>,
    /// So many of `names` exist.
    exist: usize,
}

impl Resolved {
    fn path(&self, count: usize) -> String {
        if count == 0 { ".".into() } else { self.names[..count].join("/") }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// The directory at `path` of the calling process.
    ///
    /// # Errors
    /// When it is none.
    pub fn at(path: &str) -> Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map(Root).doing(|| format!("open {path}"))
    }

    /// Opens an existing path as an O_PATH descriptor, following symbolic links inside the root.
    ///
    /// # Errors
    /// ENOENT when it does not exist.
    pub fn open(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let resolved = self.resolve(path)?;
        if resolved.exist < resolved.names.len() {
            return Err(Errno::NOENT);
        }
        self.open_plain(&resolved.path(resolved.exist), OFlags::PATH)
    }

    /// Opens a regular file for reading; anything else is ENOENT, so that a pipe in the way cannot stop the caller.
    ///
    /// # Errors
    /// ENOENT when it does not exist.
    pub fn open_regular(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let resolved = self.resolve(path)?;
        let plain = resolved.path(resolved.names.len());
        let stat = rustix::fs::statat(&self.0, plain.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::NOENT);
        }
        self.open_plain(&plain, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    /// Opens a path for reading and writing without making a terminal the controlling one.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn open_terminal(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let resolved = self.resolve(path)?;
        self.open_plain(&resolved.path(resolved.names.len()), OFlags::RDWR | OFlags::NOCTTY)
    }

    /// Makes the directory with all directories above it (mode 0755) unless it exists, and opens it (O_PATH).
    ///
    /// # Errors
    /// When a part of the path is no directory or cannot be made.
    pub fn make_directory(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let resolved = self.resolve(path)?;
        self.make_parents(&resolved, resolved.names.len())?;
        self.open_plain(&resolved.path(resolved.names.len()), OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Makes an empty file (and the directories above it) unless something exists, and opens it (O_PATH).
    ///
    /// # Errors
    /// As [`Root::make_directory`].
    pub fn make_file(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let resolved = self.resolve(path)?;
        let plain = resolved.path(resolved.names.len());
        if resolved.exist < resolved.names.len() {
            self.make_parents(&resolved, resolved.names.len() - 1)?;
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            openat2(&self.0, plain.as_str(), flags, Mode::from_raw_mode(0o644), resolve)?;
        }
        self.open_plain(&plain, OFlags::PATH)
    }

    /// The directory (made if missing) and the name in it, for making something there. The name itself is not followed.
    ///
    /// # Errors
    /// EINVAL for the root itself; else as [`Root::make_directory`].
    pub fn parent(&self, path: &str) -> rustix::io::Result<(OwnedFd, String)> {
        let path = path.trim_end_matches('/');
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == ".." || name == "." {
            return Err(Errno::INVAL);
        }
        Ok((self.make_directory(directory)?, name.to_owned()))
    }

    fn open_plain(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn make_parents(&self, resolved: &Resolved, count: usize) -> rustix::io::Result<()> {
        for end in resolved.exist + 1..=count {
            let above = self.open_plain(&resolved.path(end - 1), OFlags::PATH | OFlags::DIRECTORY)?;
            match rustix::fs::mkdirat(&above, resolved.names[end - 1].as_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn resolve(&self, path: &str) -> rustix::io::Result<Resolved> {
        let mut todo: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let mut done = Resolved { names: Vec::new(), exist: 0 };
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    done.names.pop();
                    done.exist = done.exist.min(done.names.len());
                    continue;
                }
                _ => done.names.push(name),
            }
            if done.exist + 1 < done.names.len() {
                // Below something that is missing there is nothing to look at.
                continue;
            }
            match self.open_plain(&done.path(done.names.len()), OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(file) if is_link(&file)? => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    done.names.pop();
                    follow(&file, &mut todo, &mut done)?;
                }
                Ok(_) => done.exist += 1,
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

fn is_link(file: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Symlink)
}

fn follow(link: &OwnedFd, todo: &mut VecDeque<String>, done: &mut Resolved) -> rustix::io::Result<()> {
    let target = rustix::fs::readlinkat(link, "", Vec::new())?;
    let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
    if target.starts_with('/') {
        done.names.clear();
        done.exist = 0;
    }
    for name in target.split('/').rev() {
        todo.push_front(name.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b", "run"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("a/file"), "x").unwrap();
        symlink("/run", dir.path().join("a/abs")).unwrap();
        symlink("../../../../a/b", dir.path().join("a/up")).unwrap();
        symlink("/gone/away", dir.path().join("dangling")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = Root::at(dir.path().to_str().unwrap()).unwrap();
        (dir, root)
    }

    #[test]
    fn links_stay_inside_and_missing_parts_are_known() {
        let (_dir, root) = root();
        let resolve = |path: &str| root.resolve(path).map(|r| (r.names.join("/"), r.exist));
        assert_eq!(resolve("/a/abs/x"), Ok(("run/x".into(), 1)));
        assert_eq!(resolve("/a/up"), Ok(("a/b".into(), 2)));
        assert_eq!(resolve("/../../a/./b/.."), Ok(("a".into(), 1)));
        assert_eq!(resolve("/dangling"), Ok(("gone/away".into(), 0)));
        assert_eq!(resolve("/new/../a"), Ok(("a".into(), 1)));
        assert_eq!(resolve("/loop"), Err(Errno::LOOP));
        assert_eq!(resolve("/a/file/x"), Err(Errno::NOTDIR));
    }

    #[test]
    fn what_is_missing_is_made_behind_links_too() {
        let (dir, root) = root();
        root.make_file("/dangling/deep/file").unwrap();
        assert!(dir.path().join("gone/away/deep/file").is_file());
        root.make_directory("/a/abs/one/two").unwrap();
        assert!(dir.path().join("run/one/two").is_dir());
        root.make_file("/a/file").unwrap();
        assert_eq!(std::fs::read(dir.path().join("a/file")).unwrap(), b"x");
        assert_eq!(root.make_directory("/a/file/x").unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn opening_needs_something_there() {
        let (_dir, root) = root();
        assert_eq!(root.open("/dangling").unwrap_err(), Errno::NOENT);
        assert!(root.open("/a/up").is_ok());
        assert!(root.open("/").is_ok());
        assert_eq!(root.open_regular("/a").unwrap_err(), Errno::NOENT);
        assert_eq!(root.parent("/..").unwrap_err(), Errno::INVAL);
        assert_eq!(root.parent("/a/abs/new").unwrap().1, "new");
    }
}
