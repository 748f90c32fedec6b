//! Bad input: one clear line, exit code 1, nothing left.

use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use vm_tests::{Bundle, Sandbox, mount};

fn refused(sandbox: &Sandbox, bundle: &Bundle, words: &str) {
    for command in ["create", "run"] {
        sandbox.cor(&[command, "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run().refused(words);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_bundle_that_is_missing_or_malformed_is_refused() {
    let sandbox = Sandbox::new();
    let run = |bundle: &str| sandbox.cor(&["run", "--bundle", bundle, &sandbox.id()]).run();
    run("/no/such").refused("/no/such");
    let empty = sandbox.path().join("empty");
    fs::create_dir(&empty).unwrap();
    run(empty.to_str().unwrap()).refused("config.json not found");
    for (text, words) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "config.json"),
        ("{}", "ociVersion"),
        ("\u{0}", "not JSON"),
        (r#"{"ociVersion":"1.0.2"}"#, "root"),
        (r#"{"ociVersion":"2.0.0","root":{"path":"rootfs"}}"#, "2.0.0"),
        (r#"{"ociVersion":"one","root":{"path":"rootfs"}}"#, "one"),
        (r#"{"ociVersion":"1.0.0","root":{"path":"rootfs"}}"#, "root.path"),
    ] {
        fs::write(empty.join("config.json"), text).unwrap();
        run(empty.to_str().unwrap()).refused(words);
    }
    fs::create_dir(empty.join("rootfs")).unwrap();
    let text =
        r#"{"ociVersion":"1.0.0","root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"network"}]}}"#;
    fs::write(empty.join("config.json"), text).unwrap();
    run(empty.to_str().unwrap()).refused("process");
    fs::write(empty.join("config.json"), format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20))).unwrap();
    run(empty.to_str().unwrap()).refused("limit");
    sandbox.assert_nothing_left();
}

#[test]
fn a_wrong_value_is_named_by_its_json_path() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let good = bundle.spec();
    for (pointer, value, words) in [
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!("sh"), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/user/uid", json!(-1), "process.user.uid"),
        ("/process/user/uid", json!("root"), "process.user.uid"),
        ("/process/env", json!(["no-equals-sign"]), "process.env[0]"),
        ("/process/args", json!(["a\u{0}b"]), "process.args[0]"),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "soft": 2, "hard": 1 }]),
            "process.rlimits[0]: the soft limit",
        ),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CPU", "soft": 1, "hard": 1 }, { "type": "RLIMIT_CPU", "soft": 1, "hard": 1 }]),
            "process.rlimits[1]",
        ),
        ("/process/rlimits", json!([{ "type": "RLIMIT_NONE", "soft": 1, "hard": 1 }]), "process.rlimits[0]"),
        ("/mounts/0/destination", json!(""), "mounts[0].destination"),
        ("/mounts/0/type", json!("ext4"), "mounts[0].type"),
        ("/linux/namespaces", json!([{ "type": "no" }]), "linux.namespaces[0]"),
        ("/linux/maskedPaths", json!(["relative"]), "linux.maskedPaths[0]"),
        ("/linux/resources", json!({ "memory": { "limit": "much" } }), "linux.resources.memory.limit"),
        (
            "/linux/resources",
            json!({ "memory": { "limit": 100, "swap": 50 } }),
            "linux.resources.memory.swap",
        ),
        ("/linux/resources", json!({ "cpu": { "quota": 5, "period": 5 } }), "linux.resources.cpu.period"),
        ("/linux/resources", json!({ "unified": { "../x.y": "1" } }), "linux.resources.unified"),
        ("/linux/rootfsPropagation", json!("wide"), "linux.rootfsPropagation"),
        ("/linux/cgroupsPath", json!("/"), "linux.cgroupsPath"),
        ("/hostname", json!("x".repeat(100)), "hostname"),
    ] {
        bundle.change(|spec| {
            *spec = good.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"))[key] = value;
        });
        sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run().refused(words);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn an_unknown_capability_is_left_out_with_a_warning() {
    let sandbox = Sandbox::new();
    let output = sandbox.script("grep CapEff /proc/self/status", |spec| {
        spec["process"]["capabilities"] = json!({ "bounding": ["CAP_KILL"], "effective": ["CAP_KILL", "CAP_NO_SUCH"], "permitted": ["CAP_KILL"] });
    });
    assert!(output.errors().contains("CAP_NO_SUCH"), "{output}");
    assert!(output.text().ends_with("0000000000000020"), "{output}");
}

#[test]
fn unknown_fields_and_foreign_annotations_are_ignored() {
    let sandbox = Sandbox::new();
    let output = sandbox.script("echo runs", |spec| {
        spec["unknown"] = json!({ "deep": [1] });
        spec["process"]["unknown"] = json!(true);
        spec["linux"]["unknown"] = json!("x");
        spec["annotations"] = json!({ "org.example": "kept" });
    });
    assert_eq!(output.text(), "runs");
}

#[test]
fn a_root_file_system_that_is_missing_or_no_directory_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    for (path, words) in [
        ("no-such", "No such file"),
        ("config.json", "not a directory"),
        ("", "root.path"),
        ("link", "symlink"),
    ] {
        if path == "link" {
            symlink("rootfs", bundle.path().join("link")).unwrap();
        }
        bundle.change(|spec| spec["root"]["path"] = json!(path));
        refused(&sandbox, &bundle, words);
    }
}

#[test]
fn a_mount_without_its_source_is_refused_before_anything_boots() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| mount(spec, "/v", "bind", "/no/such/source", &["bind"]));
    refused(&sandbox, &bundle, "/no/such/source");
}

#[test]
fn a_mount_over_something_that_does_not_fit_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| mount(spec, "/etc/passwd", "tmpfs", "tmpfs", &[]));
    refused(&sandbox, &bundle, "/etc/passwd");
}

#[test]
fn the_working_directory_is_made_or_named() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| spec["process"]["cwd"] = json!("/etc/passwd"));
    refused(&sandbox, &bundle, "/etc/passwd");
}

#[test]
fn what_a_machine_cannot_give_is_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let good = bundle.spec();
    let case = |change: &dyn Fn(&mut serde_json::Value), words: &str| {
        bundle.change(|spec| {
            *spec = good.clone();
            change(spec);
        });
        sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run().refused(words);
    };
    case(&|spec| vm_tests::remove_namespace(spec, "network"), "network");
    case(&|spec| vm_tests::remove_namespace(spec, "pid"), "the host's processes");
    case(&|spec| spec["linux"]["intelRdt"] = json!({ "closID": "x" }), "linux.intelRdt");
    case(&|spec| mount(spec, "/x", "bind", "/dev/kmsg-no", &["bind"]), "/dev/kmsg-no");
    case(&|spec| spec["windows"] = json!({ "layerFolders": [] }), "windows");
    sandbox.assert_nothing_left();
}

#[test]
fn a_runtime_root_that_cannot_be_written_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let run = |root: &str| {
        sandbox.cor(&["run", "--root", root, "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run()
    };
    run("/proc/no-such").refused("/proc/no-such");
    let file = sandbox.path().join("file");
    fs::write(&file, "").unwrap();
    run(file.to_str().unwrap()).refused("file");
    sandbox.assert_nothing_left();
}

#[test]
fn a_kernel_that_is_missing_or_has_a_wrong_hash_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let name = vm_tests::Programs::get().mini_os.clone();
    for (text, words) in [
        ("[mini_os]\nname = \"no-such\"\n".to_string(), "clear-mini-os build"),
        (format!("[mini_os]\nname = {name:?}\nkernel_sha256 = \"{}\"\n", "0".repeat(64)), "hash"),
        (format!("[mini_os]\nname = {name:?}\nkernel = \"/no/such/vmlinux\"\n"), "/no/such/vmlinux"),
        (format!("[mini_os]\nname = {name:?}\nimage = \"/no/such/image\"\n"), "/no/such/image"),
        (
            format!("[mini_os]\nname = {name:?}\n[machine]\nbackend = \"qemu\"\nqemu = \"/no/such/qemu\"\n"),
            "/no/such/qemu",
        ),
        (format!("[mini_os]\nname = {name:?}\n[machine]\nbackend = \"qemu\"\nqemu = \"/bin/false\"\n"), ""),
        (
            format!(
                "[mini_os]\nname = {name:?}\nkernel = \"/etc/passwd\"\nkernel_features = [\"virtio-mmio\"]\n"
            ),
            "",
        ),
    ] {
        sandbox.configure(&text);
        refused(&sandbox, &bundle, words);
    }
}

#[test]
fn a_changed_file_of_the_mini_os_is_found() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let programs = vm_tests::Programs::get();
    let store = sandbox.path().join("store");
    let object = store.join("objects/changed");
    fs::create_dir_all(&object).unwrap();
    fs::create_dir_all(store.join("refs")).unwrap();
    for entry in fs::read_dir(programs.mini_os_directory(&programs.mini_os)).unwrap().flatten() {
        fs::copy(entry.path(), object.join(entry.file_name())).unwrap();
    }
    symlink("../objects/changed", store.join("refs").join(&programs.mini_os)).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(object.join("manifest.json")).unwrap()).unwrap();
    let kernel = object.join(manifest["kernel"]["path"].as_str().unwrap());
    let mut bytes = fs::read(&kernel).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&kernel, bytes).unwrap();
    let run = sandbox.run_command(&bundle).env("CLEAR_MINI_OS_STORE", &store).run();
    let line = run.refused("hash");
    assert!(line.contains("clear-mini-os build"), "{line}");
    fs::write(object.join("manifest.json"), "{").unwrap();
    sandbox.run_command(&bundle).env("CLEAR_MINI_OS_STORE", &store).run().refused("manifest");
    sandbox.assert_nothing_left();
}

#[test]
fn flags_that_are_wrong_are_usage_errors() {
    let sandbox = Sandbox::new();
    for args in [
        &["no-such-command"][..],
        &["run"],
        &["run", "--no-such-flag", "c"],
        &["kill", "c", "NOPE"],
        &["list", "--format", "xml"],
        &[],
    ] {
        let output = sandbox.cor(args).run();
        assert!([1, 2].contains(&output.code) && !output.stderr.is_empty(), "{output}");
    }
    sandbox.cor(&["checkpoint", "c"]).run().expect(1);
}
