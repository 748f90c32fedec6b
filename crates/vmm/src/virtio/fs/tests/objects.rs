//! Objects of all types, their owners, modes, times, names and extended attributes.

use super::client::{Client, long, text};
use crate::virtio::fs::share::ShareOptions;
use crate::virtio::fs::share::ids::{IdMap, Range};
use crate::virtio::fs::wire::{Body, ROOT};
use rustix::io::Errno;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

fn client() -> (Client, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Client::new(directory.path(), ShareOptions::default()), directory)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn fifos_and_sockets_are_names_only() {
    let (mut client, directory) = client();
    let fifo = client.mknod(ROOT, "fifo", libc::S_IFIFO | 0o666, 0).unwrap();
    let socket = client.mknod(ROOT, "socket", libc::S_IFSOCK | 0o666, 0).unwrap();
    assert!(std::fs::symlink_metadata(directory.path().join("fifo")).unwrap().file_type().is_fifo());
    assert!(std::fs::symlink_metadata(directory.path().join("socket")).unwrap().file_type().is_socket());
    assert_eq!(client.open(fifo.node, libc::O_RDWR).unwrap_err(), Errno::NXIO);
    assert_eq!(client.open(socket.node, libc::O_RDWR).unwrap_err(), Errno::NXIO);
    assert_eq!(fifo.mode, libc::S_IFIFO | 0o644);
}

#[test]
fn devices_are_never_opened() {
    let (mut client, directory) = client();
    // 1:3 is /dev/null, which anybody may open.
    let made = client.mknod(ROOT, "null", libc::S_IFCHR | 0o666, 0x103);
    if !is_root() {
        assert_eq!(made.unwrap_err(), Errno::PERM);
        return;
    }
    let node = made.unwrap();
    assert_eq!((node.device, node.mode & libc::S_IFMT), (0x103, libc::S_IFCHR));
    assert!(std::fs::symlink_metadata(directory.path().join("null")).unwrap().file_type().is_char_device());
    for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
        assert_eq!(client.open(node.node, flags).unwrap_err(), Errno::NXIO);
        assert_eq!(client.create(ROOT, "null", flags, 0o666).unwrap_err(), Errno::NXIO);
    }
    assert_eq!(client.setattr(node.node, 1 << 3, 5, 0, (0, 0)).unwrap_err(), Errno::INVAL);
}

#[test]
fn hard_links_are_one_object() {
    let (mut client, directory) = client();
    let (a, _) = client.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    let folder = client.mkdir(ROOT, "d", 0o755).unwrap();
    let b = client.link(a.node, folder.node, "b").unwrap();
    assert_eq!((b.node, b.inode, b.links), (a.node, a.inode, 2));
    assert_eq!(client.walk("d/b").node, a.node);
    assert_eq!(std::fs::metadata(directory.path().join("d/b")).unwrap().nlink(), 2);
    // A link to a symbolic link is one to itself, not to where it points.
    let link = client.symlink(ROOT, "s", "/etc/passwd").unwrap();
    client.link(link.node, ROOT, "t").unwrap();
    assert_eq!(std::fs::read_link(directory.path().join("t")).unwrap().to_str(), Some("/etc/passwd"));
}

#[test]
fn symbolic_links_are_read_and_not_followed() {
    let (mut client, _directory) = client();
    let target = "x".repeat(1000);
    let link = client.symlink(ROOT, "s", &target).unwrap();
    assert_eq!(client.call(5, link.node, &[]).unwrap(), target.into_bytes());
    assert_eq!(client.open(link.node, libc::O_RDONLY).unwrap_err(), Errno::LOOP);
    assert_eq!(client.call(5, ROOT, &[]).unwrap_err(), Errno::INVAL);
}

#[test]
fn renames_with_flags() {
    let (mut client, directory) = client();
    std::fs::write(directory.path().join("a"), "A").unwrap();
    std::fs::write(directory.path().join("b"), "B").unwrap();
    assert_eq!(client.rename((ROOT, "a"), (ROOT, "b"), libc::RENAME_NOREPLACE).unwrap_err(), Errno::EXIST);
    client.rename((ROOT, "a"), (ROOT, "b"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(std::fs::read(directory.path().join("a")).unwrap(), b"B");
    assert_eq!(client.rename((ROOT, "a"), (ROOT, "b"), 1 << 20).unwrap_err(), Errno::INVAL);
    let body = Body::default().u64(ROOT);
    client.call(12, ROOT, &[body.0, text("a"), text("c")].concat()).unwrap();
    assert_eq!(std::fs::read(directory.path().join("c")).unwrap(), b"B");
    client.mkdir(ROOT, "d", 0o755).unwrap();
    client.call(11, ROOT, &text("d")).unwrap();
    assert_eq!(client.lookup(ROOT, "d").unwrap_err(), Errno::NOENT);
}

#[test]
fn modes_sizes_and_times() {
    let (mut client, directory) = client();
    let (file, _) = client.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(client.setattr(file.node, 1, 0, 0o4751, (0, 0)).unwrap().mode, 0o104_751);
    assert_eq!(client.setattr(file.node, 1 << 3, 77, 0, (0, 0)).unwrap().size, 77);
    client.setattr(file.node, 1 << 4 | 1 << 5, 0, 0, (0, 0)).unwrap();
    let host = std::fs::metadata(directory.path().join("a")).unwrap();
    assert_eq!((host.atime(), host.atime_nsec(), host.mtime(), host.mtime_nsec()), (1000, 5, 2000, 6));
    client.setattr(file.node, 1 << 5 | 1 << 8, 0, 0, (0, 0)).unwrap();
    let host = std::fs::metadata(directory.path().join("a")).unwrap();
    assert!(host.atime() == 1000 && host.mtime() > 1_600_000_000);
    assert_eq!(
        client.setattr(ROOT, 1 << 3, 0, 0, (0, 0)).unwrap_err(),
        Errno::INVAL,
        "a directory has no size to set"
    );
}

#[test]
fn new_objects_belong_to_who_asked() {
    if !is_root() {
        return;
    }
    let (mut client, directory) = client();
    (client.uid, client.gid) = (1234, 2345);
    let (file, _) = client.create(ROOT, "a", libc::O_RDWR, 0o6755).unwrap();
    assert_eq!((file.uid, file.gid, file.mode), (1234, 2345, 0o106_755));
    let link = client.symlink(ROOT, "s", "a").unwrap();
    let fifo = client.mknod(ROOT, "f", libc::S_IFIFO | 0o600, 0).unwrap();
    assert_eq!((link.uid, link.gid, fifo.uid), (1234, 2345, 1234));
    // A directory that hands its group on.
    let folder = client.mkdir(ROOT, "d", 0o755).unwrap();
    std::os::unix::fs::chown(directory.path().join("d"), None, Some(777)).unwrap();
    std::fs::set_permissions(directory.path().join("d"), std::fs::Permissions::from_mode(0o2775)).unwrap();
    let inner = client.mkdir(folder.node, "e", 0o755).unwrap();
    assert_eq!((inner.uid, inner.gid, inner.mode & 0o7777), (1234, 777, 0o2755));
    let changed = client.setattr(file.node, 1 << 1 | 1 << 2, 0, 0, (5, 6)).unwrap();
    assert_eq!(
        (changed.uid, changed.gid, changed.mode & 0o7777),
        (5, 6, 0o755),
        "chown takes set-user-id away"
    );
    assert_eq!(client.setattr(file.node, 1 << 1, 0, 0, (u32::MAX, 0)).unwrap_err(), Errno::INVAL);
}

#[test]
fn owners_are_translated() {
    let directory = tempfile::tempdir().unwrap();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let map = |host| vec![Range { guest: 50, host, count: 1 }];
    let ids = IdMap { users: map(uid), groups: map(gid) };
    let mut client = Client::new(directory.path(), ShareOptions { ids, ..ShareOptions::default() });
    (client.uid, client.gid) = (50, 50);
    let (file, _) = client.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((file.uid, file.gid), (50, 50));
    assert_eq!(std::fs::metadata(directory.path().join("a")).unwrap().uid(), uid);
    client.uid = 51;
    assert_eq!(client.create(ROOT, "b", libc::O_RDWR, 0o600).unwrap_err(), Errno::INVAL);
    assert_eq!(client.lookup(ROOT, "b").unwrap_err(), Errno::NOENT, "nothing is left of it");
    let acl = [&8u32.to_le_bytes()[..], &[0; 4], &text("system.posix_acl_access")].concat();
    assert_eq!(client.call(22, file.node, &acl).unwrap_err(), Errno::OPNOTSUPP);
}

fn setxattr(client: &mut Client, node: u64, name: &str, value: &[u8], extra: u32) -> Result<(), Errno> {
    let body = Body::default().u32(value.len() as u32).u32(0).u32(extra).u32(0);
    client.call(21, node, &[&body.0, &text(name), value].concat()).map(drop)
}

fn getxattr(client: &mut Client, node: u64, name: &str, size: u32) -> Result<Vec<u8>, Errno> {
    client.call(22, node, &[Body::default().u32(size).u32(0).0, text(name)].concat())
}

#[test]
fn extended_attributes() {
    let (mut client, directory) = client();
    let (file, _) = client.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    let path = directory.path().join("a");
    if rustix::fs::setxattr(&path, "user.probe", b"", rustix::fs::XattrFlags::empty()).is_err() {
        // The file system of the temporary directory has none.
        return;
    }
    setxattr(&mut client, file.node, "user.test", b"value", 0).unwrap();
    assert_eq!(getxattr(&mut client, file.node, "user.test", 100).unwrap(), b"value");
    assert_eq!(getxattr(&mut client, file.node, "user.test", 0).unwrap()[..4], [5, 0, 0, 0]);
    assert_eq!(getxattr(&mut client, file.node, "user.test", 2).unwrap_err(), Errno::RANGE);
    assert_eq!(getxattr(&mut client, file.node, "user.none", 9).unwrap_err(), Errno::NODATA);
    let names = client.call(23, file.node, &Body::default().u32(1000).u32(0).0).unwrap();
    assert_eq!(names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).count(), 2);
    client.call(24, file.node, &text("user.test")).unwrap();
    assert_eq!(getxattr(&mut client, file.node, "user.test", 9).unwrap_err(), Errno::NODATA);
    // The link's own, which cannot have any of the user's: never those of what it points to.
    let link = client.symlink(ROOT, "s", "a").unwrap();
    assert_eq!(setxattr(&mut client, link.node, "user.test", b"x", 0).unwrap_err(), Errno::PERM);
    assert_eq!(getxattr(&mut client, file.node, "user.test", 9).unwrap_err(), Errno::NODATA);
}

#[test]
fn a_default_acl_goes_before_the_umask() {
    let (mut client, directory) = client();
    // user::rwx group::rwx mask::rwx other::rwx and user 7: rwx (`struct posix_acl_xattr_header`, `_entry`).
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 7), (4, 7, u32::MAX), (0x10, 7, u32::MAX), (0x20, 7, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let folder = client.mkdir(ROOT, "d", 0o755).unwrap();
    if setxattr(&mut client, folder.node, "system.posix_acl_default", &acl, 0) == Err(Errno::OPNOTSUPP) {
        return;
    }
    let (with, _) = client.create(folder.node, "a", libc::O_RDWR, 0o666).unwrap();
    assert_eq!(with.mode & 0o777, 0o666, "the umask 022 must not count here");
    let (without, _) = client.create(ROOT, "a", libc::O_RDWR, 0o666).unwrap();
    assert_eq!(without.mode & 0o777, 0o644);
    assert!(getxattr(&mut client, with.node, "system.posix_acl_access", 1000).unwrap().len() > 4);
    std::fs::set_permissions(directory.path().join("a"), std::fs::Permissions::from_mode(0o2755)).unwrap();
    setxattr(&mut client, without.node, "system.posix_acl_access", &acl, 1).unwrap();
    assert_eq!(client.getattr(without.node).unwrap().mode & 0o2000, 0);
}

#[test]
fn a_forgotten_node_is_gone_and_its_number_is_not_used_again() {
    let (mut client, directory) = client();
    std::fs::write(directory.path().join("a"), "").unwrap();
    let first = client.walk("a").node;
    assert_eq!(client.walk("a").node, first);
    client.silent(2, first, &1u64.to_le_bytes());
    client.getattr(first).unwrap();
    let batch = Body::default().u32(1).u32(0).u64(first).u64(1);
    client.silent(42, 0, &batch.0);
    assert_eq!(client.getattr(first).unwrap_err(), Errno::STALE);
    assert!(client.walk("a").node > first);
    client.silent(2, ROOT, &u64::MAX.to_le_bytes());
    client.getattr(ROOT).unwrap();
    assert!(long(&client.call(17, ROOT, &[]).unwrap(), 0) > 0);
}
