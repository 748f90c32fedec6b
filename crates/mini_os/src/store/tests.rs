use super::*;
use machine_spec::mini_os::Features;
use std::collections::BTreeSet;

/// A store with a kernel `k` and an object `o` made from it.
fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path().join("store"));
    let held = store.lock("kernel", "k", || ()).unwrap();
    let draft = store.draft("kernel", "k", &held).unwrap();
    draft.write("vmlinux", b"kernel").unwrap();
    let vmlinux = describe(draft.path(), "vmlinux").unwrap();
    let kernel = crate::kernel::Description {
        format: crate::kernel::FORMAT,
        origin: "test".into(),
        release: "6.12".into(),
        vmlinux,
        modules: vec![],
    };
    draft.write("kernel.json", &serde_json::to_vec(&kernel).unwrap()).unwrap();
    draft.publish(".", &store.kernel("k")).unwrap();
    object(&store, "o");
    (directory, store)
}

fn object(store: &Store, key: &str) {
    let held = store.lock("object", key, || ()).unwrap();
    let draft = store.draft("object", key, &held).unwrap();
    draft.write("vmlinux", b"kernel").unwrap();
    let mini_os = MiniOs {
        version: VERSION,
        origin: "test".into(),
        arch: "x86_64".into(),
        release: "6.12".into(),
        kernel: describe(draft.path(), "vmlinux").unwrap(),
        initramfs: None,
        image: None,
        features: Features::default(),
    };
    draft.write(MANIFEST, &serde_json::to_vec(&mini_os).unwrap()).unwrap();
    draft.publish(".", &store.object(key)).unwrap();
}

fn collected(store: &Store, dry_run: bool) -> BTreeSet<String> {
    let found = gc::collect(store, dry_run).unwrap();
    found.iter().map(|g| g.path.strip_prefix(store.root()).unwrap().to_str().unwrap().to_string()).collect()
}

#[test]
fn names_point_to_objects_and_move() {
    let (_directory, store) = store();
    object(&store, "p");
    store.set_name("default", "o").unwrap();
    assert_eq!(store.resolve("default").unwrap(), store.object("o"));
    store.set_name("default", "p").unwrap();
    assert_eq!(store.resolve("default").unwrap(), store.object("p"));
    assert_eq!(store.names().unwrap(), ["default"]);
    let link = fs::read_link(store.root().join("refs/default")).unwrap();
    assert_eq!(link, Path::new("../objects/p"));
}

#[test]
fn hostile_and_unknown_names_are_refused() {
    let (_directory, store) = store();
    for name in ["../x", "", ".hidden", "a/b", "a b", &"a".repeat(65)] {
        assert!(matches!(store.set_name(name, "o"), Err(StoreError::Name(_))), "{name}");
        assert!(matches!(store.resolve(name), Err(StoreError::Name(_))), "{name}");
    }
    assert!(matches!(store.resolve("x"), Err(StoreError::Unknown(_))));
}

#[test]
fn every_change_is_found() {
    let (_directory, store) = store();
    let object = store.object("o");
    assert!(store.check(&object).is_empty());
    fs::write(object.join("vmlinux"), "kernal").unwrap();
    assert!(store.check(&object)[0].to_string().contains("SHA-256"));
    fs::write(object.join("vmlinux"), "short").unwrap();
    assert!(store.check(&object)[0].to_string().contains("5 bytes instead of 6"));
    fs::remove_file(object.join("vmlinux")).unwrap();
    assert!(store.check(&object)[0].to_string().contains("vmlinux"));
    fs::write(object.join(MANIFEST), "{").unwrap();
    assert!(matches!(store.check(&object)[..], [StoreError::Manifest(..)]));
}

#[test]
fn unpublished_draft_leaves_nothing() {
    let (_directory, store) = store();
    let held = store.lock("object", "x", || ()).unwrap();
    let draft = store.draft("object", "x", &held).unwrap();
    let path = draft.path().to_owned();
    draft.write("half", b"..").unwrap();
    drop(draft);
    assert!(!path.exists());
    assert!(!store.object("x").exists());
}

#[test]
fn draft_of_a_killed_build_is_replaced() {
    let (_directory, store) = store();
    let held = store.lock("object", "x", || ()).unwrap();
    let draft = store.draft("object", "x", &held).unwrap();
    draft.write("half", b"..").unwrap();
    std::mem::forget(draft);
    let draft = store.draft("object", "x", &held).unwrap();
    assert_eq!(fs::read_dir(draft.path()).unwrap().count(), 0);
}

#[test]
fn second_build_of_a_key_waits() {
    let (_directory, store) = store();
    let held = store.lock("kernel", "busy", || ()).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let second = {
        let store = store.clone();
        std::thread::spawn(move || store.lock("kernel", "busy", || send.send(()).unwrap()).map(drop))
    };
    receive.recv().unwrap();
    assert!(!second.is_finished());
    drop(held);
    second.join().unwrap().unwrap();
}

#[test]
fn gc_keeps_what_is_named_and_what_is_being_built() {
    let (_directory, store) = store();
    object(&store, "unnamed");
    store.set_name("default", "o").unwrap();
    let stale = store.root().join("temporary/kernel-dead");
    fs::create_dir_all(&stale).unwrap();
    let held = store.lock("object", "live", || ()).unwrap();
    let live = store.draft("object", "live", &held).unwrap();
    fs::create_dir_all(store.kernel("unused")).unwrap();

    let expected = ["kernels/unused", "objects/unnamed", "temporary/kernel-dead"].map(String::from);
    assert_eq!(collected(&store, true), expected.clone().into());
    assert!(stale.exists());
    assert_eq!(collected(&store, false), expected.into());
    assert!(!stale.exists() && live.path().exists());
    assert!(store.check(&store.object("o")).is_empty());
    assert!(store.kernel("k").exists());
    assert_eq!(collected(&store, false), BTreeSet::new());
}

#[test]
fn gc_takes_all_when_nothing_is_named() {
    let (_directory, store) = store();
    assert_eq!(collected(&store, false), ["kernels/k", "objects/o"].map(String::from).into());
    assert_eq!(fs::read_dir(store.root().join("locks")).unwrap().count(), 0);
}

#[test]
fn locks_survive_their_removal_by_gc() {
    let (_directory, store) = store();
    let path = store.root().join("locks/kernel-x");
    drop(Lock::try_take(&path).unwrap());
    gc::collect(&store, false).unwrap();
    assert!(!path.exists());
    let held = Lock::try_take(&path).unwrap();
    assert!(held.is_some() && Lock::try_take(&path).unwrap().is_none());
}
