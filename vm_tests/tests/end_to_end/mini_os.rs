//! `clear-mini-os`: what it builds boots, holds what the manifest adds, and is refused when it was changed.

use std::fs;
use std::path::Path;
use vm_tests::{Command, Programs, Sandbox, on_network};

const MANIFEST: &str = r#"
[kernel]
source = "debian"
modules = ["xfs"]
[[files]]
source = "motd"
target = "/etc/motd"
mode = "0640"
[packages]
debian = ["ed"]
"#;

fn mini_os(store: &Path, args: &[&str]) -> Command {
    Command::new(Programs::get().clear_mini_os()).env("CLEAR_MINI_OS_STORE", store).args(args)
}

fn contains(archive: &[u8], text: &str) -> bool {
    archive.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_manifest_adds_files_packages_and_modules_and_two_builds_at_once_are_one() {
    if !on_network() {
        return;
    }
    let sandbox = Sandbox::new();
    let store = sandbox.path().join("store");
    let manifest = sandbox.path().join("mini.toml");
    fs::write(&manifest, MANIFEST).unwrap();
    fs::write(sandbox.path().join("motd"), "welcome to the machine\n").unwrap();
    let build = |name: &str| mini_os(&store, &["build", "--name", name, "--manifest"]).arg(&manifest);
    let (one, two) = std::thread::scope(|threads| {
        let other = threads.spawn(|| build("two").ok());
        (build("one").ok(), other.join().unwrap())
    });
    assert_eq!(one.trim(), two.trim(), "the same inputs make the same mini-OS");

    let archive = fs::read(store.join("refs/one/initramfs.cpio")).unwrap();
    for text in ["etc/motd", "welcome to the machine\n", "bin/ed\0", "xfs.ko"] {
        assert!(contains(&archive, text), "{text:?} is not in the initramfs");
    }
    let listed = mini_os(&store, &["list"]).ok();
    assert!(listed.lines().any(|line| line.starts_with("one ")), "{listed}");
    assert_eq!(mini_os(&store, &["verify"]).ok().lines().filter(|l| l.contains("good")).count(), 3);

    let file = |name: &str| store.join("refs/one").join(name).display().to_string();
    sandbox.configure(&format!(
        "[mini_os]\nkernel = {:?}\ninitramfs = {:?}\n",
        file("vmlinux"),
        file("initramfs.cpio")
    ));
    let modules = sandbox.script("cat /proc/modules", |_| {}).text();
    assert!(modules.lines().any(|line| line.starts_with("xfs ")), "{modules}");
}

#[test]
fn a_changed_mini_os_is_found_and_garbage_is_collected() {
    let sandbox = Sandbox::new();
    let (store, programs) = (sandbox.path().join("store"), Programs::get());
    let object = store.join("objects/copy");
    fs::create_dir_all(&object).unwrap();
    fs::create_dir(store.join("refs")).unwrap();
    for file in fs::read_dir(programs.mini_os_directory(&programs.mini_os)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), object.join(file.file_name())).unwrap();
    }
    std::os::unix::fs::symlink("../objects/copy", store.join("refs/copy")).unwrap();
    mini_os(&store, &["verify"]).ok();

    // A newer program may have added to the manifest; one that is damaged does not hide the others.
    let manifest = fs::read_to_string(object.join("manifest.json")).unwrap();
    let newer = manifest.replacen("\"features\": {", "\"later\": 1, \"features\": { \"later\": true,", 1);
    assert_ne!(manifest, newer);
    fs::write(object.join("manifest.json"), newer).unwrap();
    mini_os(&store, &["verify"]).ok();
    fs::create_dir(store.join("objects/damaged")).unwrap();
    fs::write(store.join("objects/damaged/manifest.json"), "{").unwrap();
    std::os::unix::fs::symlink("../objects/damaged", store.join("refs/a-damaged")).unwrap();
    let list = mini_os(&store, &["list"]).run();
    assert!(list.text().contains("copy"), "{}", list.text());
    list.refused("a-damaged");
    fs::remove_file(store.join("refs/a-damaged")).unwrap();

    let mut kernel = fs::read(object.join("vmlinux")).unwrap();
    let middle = kernel.len() / 2;
    kernel[middle] ^= 1;
    fs::write(object.join("vmlinux"), kernel).unwrap();
    mini_os(&store, &["verify"]).run().refused("vmlinux");

    fs::remove_file(store.join("refs/copy")).unwrap();
    mini_os(&store, &["gc"]).ok();
    assert!(!object.exists(), "an object without a name is still there");
}

#[test]
fn bad_manifests_are_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    let (store, manifest) = (sandbox.path().join("store"), sandbox.path().join("mini.toml"));
    for (text, reason) in [
        ("[kernel]\nsauce = 'debian'\n", "sauce"),
        ("[[files]]\nsource = 'missing'\ntarget = '/x'\n", "missing"),
        ("[packages]\ndebian = ['--yes']\n", "--yes"),
        ("[kernel]\nsource = 'source'\noptions = ['CAN']\n", "CAN"),
    ] {
        fs::write(&manifest, text).unwrap();
        mini_os(&store, &["build", "--manifest"]).arg(&manifest).run().refused(reason);
    }
    mini_os(&store, &["build", "--profile", "core"]).run().refused("--kernel source");
    assert!(!store.join("refs").exists() || fs::read_dir(store.join("refs")).unwrap().next().is_none());
}
