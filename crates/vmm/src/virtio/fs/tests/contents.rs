//! What is in files and directories.

use super::client::{Client, long, text};
use super::{Arc, Share, open_directory};
use crate::virtio::fs::share::Budget;
use crate::virtio::fs::share::ShareOptions;
use crate::virtio::fs::wire::{Body, ROOT};
use rustix::io::Errno;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn client() -> (Client, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Client::new(directory.path(), ShareOptions::default()), directory)
}

#[test]
fn write_and_read_back() {
    let (mut client, directory) = client();
    let (entry, handle) = client.create(ROOT, "a", libc::O_RDWR | libc::O_CREAT, 0o666).unwrap();
    let data: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(client.write(handle, 10, &data, 0).unwrap(), 100_000);
    assert_eq!(client.read(handle, 10, 200_000).unwrap(), data);
    assert_eq!(client.read(handle, 100_009, 9).unwrap(), data[99_999..]);
    assert_eq!(client.read(handle, 1 << 40, 9).unwrap(), b"");
    let attributes = client.getattr(entry.node).unwrap();
    assert_eq!((attributes.size, attributes.mode), (100_010, 0o100_644));
    assert_eq!(std::fs::read(directory.path().join("a")).unwrap()[10..], data);
    client.call(18, entry.node, &Body::default().u64(handle).zeros(16).0).unwrap();
    assert_eq!(client.read(handle, 0, 1).unwrap_err(), Errno::BADF);
}

#[test]
fn an_existing_file_is_opened_unless_it_must_be_new() {
    let (mut client, directory) = client();
    std::fs::write(directory.path().join("a"), "old text").unwrap();
    let (_, handle) = client.create(ROOT, "a", libc::O_RDWR | libc::O_CREAT, 0o600).unwrap();
    assert_eq!(client.read(handle, 0, 100).unwrap(), b"old text");
    let exclusive = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    assert_eq!(client.create(ROOT, "a", exclusive, 0o600).unwrap_err(), Errno::EXIST);
    let (_, handle) = client.create(ROOT, "a", libc::O_RDWR | libc::O_TRUNC, 0o600).unwrap();
    assert_eq!(client.read(handle, 0, 100).unwrap(), b"");
}

#[test]
fn alone_the_guest_may_keep_what_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut client =
        Client::new(directory.path(), ShareOptions { exclusive: true, ..ShareOptions::default() });
    let answer = client.call(1, ROOT, &text("none")).unwrap();
    assert_eq!((answer.len(), long(&answer, 0), long(&answer, 16)), (128, 0, 24 * 3600));
    let (entry, _) = client.create(ROOT, "none", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(client.lookup(ROOT, "none").unwrap().node, entry.node);
    assert_eq!(client.call(39, entry.node, &[0; 32]).unwrap_err(), Errno::NOTTY);
}

#[test]
fn a_removed_file_that_is_open_goes_on() {
    let (mut client, _directory) = client();
    let (entry, handle) = client.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    client.write(handle, 0, b"still", 0).unwrap();
    client.call(10, ROOT, &text("a")).unwrap();
    assert_eq!(client.lookup(ROOT, "a").unwrap_err(), Errno::NOENT);
    assert_eq!(client.read(handle, 0, 9).unwrap(), b"still");
    assert_eq!(client.getattr(entry.node).unwrap().links, 0);
    // By the node alone, too: the descriptor pins the object.
    let again = client.open(entry.node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(again, 0, 9).unwrap(), b"still");
}

#[test]
fn a_file_without_a_name_gets_one() {
    let (mut client, directory) = client();
    let body = Body::default().u32(libc::O_RDWR as u32).u32(0o640).u32(0).u32(0);
    let answer = client.call(51, ROOT, &[body.0, text("")].concat()).unwrap();
    let (node, handle) = (long(&answer, 0), long(&answer, 128));
    client.write(handle, 0, b"text", 0).unwrap();
    assert!(client.list(ROOT, false).iter().all(|(name, _)| name.starts_with('.')));
    assert_eq!(client.link(node, ROOT, "named").unwrap().links, 1);
    assert_eq!(std::fs::read(directory.path().join("named")).unwrap(), b"text");
}

#[test]
fn directories_are_listed_in_pieces() {
    let (mut client, directory) = client();
    for number in 0..300 {
        std::fs::write(directory.path().join(format!("file-{number:03}")), "").unwrap();
    }
    let names = client.list(ROOT, false);
    assert_eq!((names.len(), names[0].0.as_str(), names[301].0.as_str()), (302, ".", "file-299"));
    let plus = client.list(ROOT, true);
    assert_eq!(plus.len(), 302);
    for (name, node) in plus {
        match name.starts_with('.') {
            true => assert_eq!(node, 0),
            false => assert_eq!(client.getattr(node).unwrap().size, 0, "{name}"),
        }
    }
}

#[test]
fn nodes_beyond_the_descriptor_budget_are_found_again() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("d/e")).unwrap();
    for number in 0..200 {
        std::fs::write(directory.path().join(format!("d/e/{number}")), number.to_string()).unwrap();
    }
    let mut client = Client::new(
        directory.path(),
        ShareOptions { budget: Some(Budget { nodes: 20, files: 20 }), ..ShareOptions::default() },
    );
    let parent = client.walk("d/e").node;
    let nodes: Vec<u64> =
        (0..200).map(|number| client.lookup(parent, &number.to_string()).unwrap().node).collect();
    let read = |client: &mut Client, node| {
        let handle = client.open(node, libc::O_RDONLY)?;
        let text = client.read(handle, 0, 9);
        client.call(18, node, &Body::default().u64(handle).zeros(16).0).unwrap();
        text
    };
    for (number, node) in nodes.iter().enumerate() {
        assert_eq!(read(&mut client, *node).unwrap(), number.to_string().into_bytes());
    }
    // Renamed, exchanged, moved with its directory, removed by the guest: still the same object.
    client.rename((parent, "1"), (ROOT, "one"), 0).unwrap();
    client.rename((parent, "2"), (parent, "3"), libc::RENAME_EXCHANGE).unwrap();
    client.rename((ROOT, "d"), (ROOT, "D"), 0).unwrap();
    client.call(10, parent, &text("4")).unwrap();
    client.rename((parent, "5"), (parent, "6"), 0).unwrap();
    for node in &nodes[100..] {
        read(&mut client, *node).unwrap();
    }
    for (number, node) in nodes.iter().enumerate().take(7).skip(1) {
        assert_eq!(read(&mut client, *node).unwrap(), number.to_string().into_bytes());
    }
    // Replaced by the host while its descriptor was closed: not the same object any more.
    std::fs::write(directory.path().join("new"), "wrong").unwrap();
    std::fs::rename(directory.path().join("new"), directory.path().join("D/e/10")).unwrap();
    assert_eq!(read(&mut client, nodes[10]).unwrap_err(), Errno::STALE);
    // Too many open files are refused, not taken from the rest of the process.
    let handles: Vec<_> = (0..21).map(|_| client.open(nodes[20], libc::O_RDONLY)).collect();
    assert_eq!(handles.iter().filter(|handle| **handle == Err(Errno::NFILE)).count(), 1);
}

#[test]
fn holes_copies_and_room() {
    let (mut client, directory) = client();
    let (_, a) = client.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    let (_, b) = client.create(ROOT, "b", libc::O_RDWR, 0o600).unwrap();
    client.call(43, 0, &Body::default().u64(a).u64(0).u64(1 << 20).u32(0).u32(0).0).unwrap();
    assert_eq!(std::fs::metadata(directory.path().join("a")).unwrap().size(), 1 << 20);
    client.write(a, 0, b"copied", 0).unwrap();
    let body = Body::default().u64(a).u64(0).u64(0).u64(b).u64(2).u64(6).u64(0);
    assert_eq!(client.call(47, 0, &body.0).unwrap()[..4], [6, 0, 0, 0]);
    assert_eq!(client.read(b, 0, 99).unwrap(), b"\0\0copied");
    let hole = Body::default().u64(b).u64(0).u32(libc::SEEK_HOLE as u32).u32(0);
    assert_eq!(long(&client.call(46, 0, &hole.0).unwrap(), 0), 8);
    client.call(20, 0, &Body::default().u64(a).u32(0).u32(0).0).unwrap();
    client.call(50, ROOT, &[0; 8]).unwrap();
    let all = client.call(17, ROOT, &[]).unwrap();
    assert!(all.len() == 80 && long(&all, 0) > 0);
}

#[test]
fn writing_takes_set_user_id_away_when_asked() {
    let (mut client, directory) = client();
    let path = directory.path().join("a");
    let (entry, handle) = client.create(ROOT, "a", libc::O_RDWR, 0o755).unwrap();
    let mode = || std::fs::metadata(&path).unwrap().mode() & 0o7777;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6755)).unwrap();
    client.write(handle, 0, b"x", 1 << 2).unwrap();
    assert_eq!(mode(), 0o755);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6755)).unwrap();
    client.setattr(entry.node, 1 << 3 | 1 << 11, 0, 0, (0, 0)).unwrap();
    assert_eq!(mode(), 0o755);
}

#[test]
fn a_directory_that_was_taken_away_answers_with_errors() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "text").unwrap();
    let share = Arc::new(Share::new(open_directory(directory.path()), ShareOptions::default()).unwrap());
    let look = Arc::downgrade(&share);
    let mut client = Client::with(share);
    let node = client.lookup(1, "a").unwrap().node;
    client.withdraw();
    // The worker that has answered last may still hold it for a moment.
    while look.strong_count() > 0 {
        std::thread::yield_now();
    }
    // open, getattr, lookup, statfs; and forget, which nobody answers.
    for (opcode, node) in [(14, node), (3, node), (1, 1), (17, 1)] {
        let body = Body::default().u64(0).u64(0);
        assert_eq!(client.call(opcode, node, &body.0).unwrap_err(), Errno::IO, "{opcode}");
    }
}
