//! A guest that wants out, and one that wants to write what it may only read.

use super::client::{Client, text};
use crate::virtio::fs::share::Budget;
use crate::virtio::fs::share::ShareOptions;
use crate::virtio::fs::wire::{Body, ROOT};
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory `share` beside a file `secret`, the share full of ways out.
fn traps() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (share, secret) = (directory.path().join("share"), directory.path().join("secret"));
    std::fs::create_dir(&share).unwrap();
    std::fs::write(&secret, "secret").unwrap();
    std::fs::create_dir(share.join("inside")).unwrap();
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, share.join(name)).unwrap();
    link(Path::new("../secret"), "relative");
    link(&secret, "absolute");
    link(Path::new("/"), "root");
    link(Path::new(".."), "up");
    link(Path::new("/proc/self/root"), "magic");
    directory
}

const LINKS: [&str; 5] = ["relative", "absolute", "root", "up", "magic"];

#[test]
fn no_name_leads_out() {
    let directory = traps();
    let mut client = Client::new(&directory.path().join("share"), ShareOptions::default());
    let inside = client.walk("inside").node;
    for parent in [ROOT, inside] {
        for name in ["..", ".", "", "/", "../secret", "/etc/passwd", "inside/..", "./.."] {
            assert_eq!(client.lookup(parent, name).unwrap_err(), Errno::INVAL, "{name:?}");
            assert_eq!(client.create(parent, name, libc::O_RDWR, 0o600).unwrap_err(), Errno::INVAL);
            assert_eq!(client.mkdir(parent, name, 0o700).unwrap_err(), Errno::INVAL);
            assert_eq!(client.mknod(parent, name, libc::S_IFIFO, 0).unwrap_err(), Errno::INVAL);
            assert_eq!(client.symlink(parent, name, "x").unwrap_err(), Errno::INVAL);
            assert_eq!(client.link(inside, parent, name).unwrap_err(), Errno::INVAL);
            assert_eq!(client.rename((ROOT, "inside"), (parent, name), 0).unwrap_err(), Errno::INVAL);
            assert_eq!(client.rename((parent, name), (ROOT, "x"), 0).unwrap_err(), Errno::INVAL);
            assert_eq!(client.call(10, parent, &text(name)).unwrap_err(), Errno::INVAL);
            assert_eq!(client.call(11, parent, &text(name)).unwrap_err(), Errno::INVAL);
        }
    }
    assert!(client.list(ROOT, true).iter().all(|(name, node)| !name.starts_with('.') || *node == 0));
}

#[test]
fn no_link_is_followed() {
    let directory = traps();
    let mut client = Client::new(&directory.path().join("share"), ShareOptions::default());
    let before = std::fs::metadata(directory.path().join("secret")).unwrap();
    for name in LINKS {
        let node = client.lookup(ROOT, name).unwrap();
        assert_eq!(node.mode & libc::S_IFMT, libc::S_IFLNK);
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
            assert_eq!(client.open(node.node, flags).unwrap_err(), Errno::LOOP, "{name}");
            assert_eq!(client.create(ROOT, name, flags | libc::O_CREAT, 0o600).unwrap_err(), Errno::LOOP);
        }
        assert_eq!(client.lookup(node.node, "secret").unwrap_err(), Errno::NOTDIR);
        assert_eq!(client.create(node.node, "new", libc::O_RDWR, 0o600).unwrap_err(), Errno::NOTDIR);
        assert_eq!(client.call(27, node.node, &[0; 8]).unwrap_err(), Errno::NOTDIR);
        assert!(client.setattr(node.node, 1 << 3, 0, 0, (0, 0)).is_err());
        // These change the link itself, or nothing.
        let _ = client.setattr(node.node, 1, 0, 0o777, (0, 0));
        let _ = client.setattr(node.node, 1 << 1 | 1 << 2, 0, 0, (client.uid, client.gid));
        client.setattr(node.node, 1 << 4 | 1 << 5, 0, 0, (0, 0)).unwrap();
        let body = Body::default().u32(1).u32(0).u32(0).u32(0);
        assert!(client.call(21, node.node, &[&body.0, &text("user.x"), &b"1"[..]].concat()).is_err());
    }
    let after = std::fs::metadata(directory.path().join("secret")).unwrap();
    assert_eq!(
        (after.mode(), after.uid(), after.mtime(), after.len()),
        (before.mode(), before.uid(), before.mtime(), 6)
    );
    assert_eq!(after.ctime_nsec(), before.ctime_nsec());
    assert!(std::fs::metadata("/").unwrap().mtime() != 2000);
}

#[test]
fn a_directory_that_turns_into_a_link_meanwhile_does_not_help() {
    let directory = traps();
    let share = directory.path().join("share");
    // Outside there is a directory with the same names as inside.
    std::fs::create_dir(directory.path().join("outside")).unwrap();
    std::fs::write(directory.path().join("outside/file"), "secret").unwrap();
    std::fs::create_dir(share.join("swap")).unwrap();
    std::fs::write(share.join("swap/file"), "public").unwrap();
    std::os::unix::fs::symlink("../outside", share.join("trap")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let at = std::fs::File::open(&share).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let _ =
                    rustix::fs::renameat_with(&at, "swap", &at, "trap", rustix::fs::RenameFlags::EXCHANGE);
            }
        });
        // The smallest budget, so that directories have to be opened again by name.
        let mut client = Client::new(
            &share,
            ShareOptions { budget: Some(Budget { nodes: 1, files: 1 }), ..ShareOptions::default() },
        );
        for _ in 0..3000 {
            let Ok(folder) = client.lookup(ROOT, "swap") else { continue };
            let Ok(file) = client.lookup(folder.node, "file") else { continue };
            let Ok(handle) = client.open(file.node, libc::O_RDONLY) else { continue };
            assert_eq!(client.read(handle, 0, 9).unwrap(), b"public");
            client.call(18, file.node, &Body::default().u64(handle).zeros(16).0).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_hard_link_to_a_link_is_one_to_the_link() {
    let directory = traps();
    let mut client = Client::new(&directory.path().join("share"), ShareOptions::default());
    for name in LINKS {
        let (node, copy) = (client.lookup(ROOT, name).unwrap(), format!("copy-of-{name}"));
        if let Ok(made) = client.link(node.node, ROOT, &copy) {
            assert_eq!((made.mode & libc::S_IFMT, made.inode), (libc::S_IFLNK, node.inode), "{name}");
        }
    }
    // Nothing of the share's own is a directory that could be linked, and its nodes are the only names for what is outside.
    for target in [ROOT, client.walk("inside").node, 77] {
        assert!(client.link(target, ROOT, "second").is_err());
    }
    let secret = std::fs::metadata(directory.path().join("secret")).unwrap();
    assert_eq!((secret.nlink(), secret.len()), (1, 6));
}

#[test]
fn a_file_that_was_replaced_by_something_else_of_its_number_is_not_opened() {
    let directory = traps();
    let share = directory.path().join("share");
    let mut client = Client::new(
        &share,
        ShareOptions { budget: Some(Budget { nodes: 1, files: 1 }), ..ShareOptions::default() },
    );
    for round in 0..50 {
        let file = share.join(format!("file{round}"));
        std::fs::write(&file, "text").unwrap();
        let node = client.lookup(ROOT, &format!("file{round}")).unwrap();
        // The share's only descriptor goes to another file, so the next use of the node has to find it again.
        client.walk("inside");
        client.walk("up");
        std::fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        // As STALE here as where the file system does not use the number of the file for the FIFO.
        assert_eq!(client.open(node.node, libc::O_RDWR).unwrap_err(), Errno::STALE);
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn read_only_is_read_only() {
    let directory = traps();
    let share = directory.path().join("share");
    std::fs::write(share.join("file"), "text").unwrap();
    let atime = std::fs::metadata(share.join("file")).unwrap().atime_nsec();
    let mut client = Client::new(&share, ShareOptions { readonly: true, ..ShareOptions::default() });
    let (file, folder) = (client.walk("file").node, client.walk("inside").node);
    let refused = |result: Result<(), Errno>| assert_eq!(result, Err(Errno::ROFS));
    for flags in
        [libc::O_RDWR, libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC, libc::O_WRONLY | libc::O_APPEND]
    {
        refused(client.open(file, flags).map(drop));
    }
    refused(client.create(ROOT, "new", libc::O_RDONLY | libc::O_CREAT, 0o600).map(drop));
    refused(client.mkdir(ROOT, "new", 0o700).map(drop));
    refused(client.mknod(ROOT, "new", libc::S_IFIFO, 0).map(drop));
    refused(client.symlink(ROOT, "new", "x").map(drop));
    refused(client.link(file, ROOT, "new").map(drop));
    refused(client.rename((ROOT, "file"), (ROOT, "new"), 0));
    refused(client.call(10, ROOT, &text("file")).map(drop));
    refused(client.call(11, ROOT, &text("inside")).map(drop));
    for valid in [1, 1 << 1, 1 << 3, 1 << 4] {
        refused(client.setattr(file, valid, 0, 0, (0, 0)).map(drop));
    }
    refused(client.call(24, file, &text("user.x")).map(drop));
    let temporary = Body::default().u32(libc::O_RDWR as u32).zeros(12);
    refused(client.call(51, folder, &[temporary.0, text("")].concat()).map(drop));
    let handle = client.open(file, libc::O_RDONLY).unwrap();
    refused(client.write(handle, 0, b"x", 0).map(drop));
    refused(client.call(43, 0, &Body::default().u64(handle).u64(0).u64(9).zeros(8).0).map(drop));
    assert_eq!(client.read(handle, 0, 9).unwrap(), b"text");
    assert_eq!(std::fs::metadata(share.join("file")).unwrap().atime_nsec(), atime, "reading leaves no trace");
    assert_eq!(std::fs::read_dir(&share).unwrap().count(), 7);
}
