//! How large the machine is and what it boots: limits, configuration file, annotations, the `vm` section.

use serde_json::{Value, json};
use std::path::PathBuf;
use vm_tests::{Bundle, Programs, Sandbox};

fn plan(sandbox: &Sandbox, bundle: &Bundle) -> Value {
    let output = sandbox.cor(&["plan", "--bundle"]).arg(bundle.path()).run().expect(0);
    serde_json::from_str(&output.text()).unwrap_or_else(|e| panic!("{e}: {output}"))
}

fn refused(sandbox: &Sandbox, bundle: &Bundle, words: &str) {
    sandbox.cor(&["plan", "--bundle"]).arg(bundle.path()).run().refused(words);
    sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run().refused(words);
    sandbox.assert_nothing_left();
}

fn annotate(bundle: &Bundle, name: &str, value: &str) {
    bundle.change(|spec| spec["annotations"] = json!({ format!("io.clearcontainers.{name}"): value }));
}

#[test]
fn the_limits_make_the_machine() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    for (quota, period, wanted) in
        [(150_000, 100_000, 2), (100_000, 100_000, 1), (1, 100_000, 1), (-1, 100_000, 1)]
    {
        bundle.change(|spec| spec["linux"]["resources"]["cpu"] = json!({ "quota": quota, "period": period }));
        assert_eq!(plan(&sandbox, &bundle)["machine"]["vcpus"], json!(wanted.min(cpus)), "{quota}/{period}");
    }
    bundle.change(|spec| {
        spec["linux"]["resources"]["cpu"] = json!({ "quota": 150_000, "period": 100_000 });
        spec["linux"]["resources"]["memory"] = json!({ "limit": 300 << 20 });
    });
    assert_eq!(
        plan(&sandbox, &bundle)["machine"]["memory_mib"],
        json!(300 + 128),
        "limit and the stated overhead"
    );
    bundle.script("nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; cat /sys/fs/cgroup/memory.max");
    let lines = sandbox.run(&bundle).expect(0).lines();
    assert_eq!(lines[0], 2.min(cpus).to_string());
    let total: u64 = lines[1].parse().unwrap();
    assert!(
        (300 << 10..428 << 10).contains(&total),
        "the whole limit is there, and no more than the machine: {total} KiB"
    );
    assert_eq!(lines[2], (300_u64 << 20).to_string());
}

#[test]
fn the_configuration_file_sets_the_defaults_and_annotations_override_them() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    sandbox.configure_more("[machine]\ndefault_memory_mib = 333\n");
    assert_eq!(plan(&sandbox, &bundle)["machine"]["memory_mib"], 333);
    annotate(&bundle, "memory_mib", "444");
    assert_eq!(plan(&sandbox, &bundle)["machine"]["memory_mib"], 444);
    bundle
        .change(|spec| spec["vm"] = json!({ "kernel": { "path": "" }, "hwConfig": { "memory": 555 << 20 } }));
    let both = plan(&sandbox, &bundle)["machine"]["memory_mib"].as_u64().unwrap();
    assert!([444, 555].contains(&both), "one of the two wins: {both}");
    bundle.change(|spec| drop(spec.as_object_mut().unwrap().remove("annotations")));
    assert_eq!(plan(&sandbox, &bundle)["machine"]["memory_mib"], 555);
}

#[test]
fn unknown_keys_and_annotations_are_errors() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    annotate(&bundle, "vcpu", "1");
    refused(&sandbox, &bundle, "io.clearcontainers.vcpu");
    annotate(&bundle, "vcpus", "many");
    refused(&sandbox, &bundle, "io.clearcontainers.vcpus");
    annotate(&bundle, "kernel", "/boot/vmlinuz");
    refused(&sandbox, &bundle, "security.allowed_annotations");
    bundle.change(|spec| spec["annotations"] = json!({ "org.example.unknown": "is ignored" }));
    plan(&sandbox, &bundle);
    sandbox.configure_more("[machine]\ndefault_vcpu = 2\n");
    refused(&sandbox, &bundle, "default_vcpu");
    // As it stands: the message names the line.
    let file = sandbox.path().join("configuration.toml");
    std::fs::write(file, "[machine]\ndefault_vcpus = \"two\"\n").unwrap();
    refused(&sandbox, &bundle, "configuration.toml:2: invalid type: string \"two\"");
    sandbox.configure("[machine\n");
    refused(&sandbox, &bundle, "configuration.toml");
    sandbox.cor(&["config", "--show", "--config", "/no/such.toml"]).run().refused("/no/such.toml");
}

#[test]
fn more_than_the_host_has_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    annotate(&bundle, "memory_mib", "99999999");
    refused(&sandbox, &bundle, "memory");
    annotate(&bundle, "memory_mib", "1");
    refused(&sandbox, &bundle, "memory");
    annotate(&bundle, "vcpus", "9999");
    refused(&sandbox, &bundle, "vCPUs");
}

/// Absolute paths of the mini-OS's files.
fn mini_os_file(name: &str) -> Option<PathBuf> {
    let programs = Programs::get();
    let directory = programs.mini_os_directory(&programs.mini_os);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(directory.join("manifest.json")).unwrap()).unwrap();
    Some(directory.join(manifest[name]["path"].as_str()?))
}

#[test]
fn the_vm_section_chooses_kernel_initramfs_and_hypervisor() {
    let sandbox = Sandbox::new();
    sandbox.configure_backend(&format!("[mini_os]\nname = {:?}\n", Programs::get().mini_os));
    let bundle = sandbox.bundle();
    let (kernel, initramfs) =
        (mini_os_file("kernel").unwrap(), mini_os_file("initramfs").expect("a mini-OS with an initramfs"));
    let copy = sandbox.path().join("my-vmlinux");
    std::fs::copy(kernel, &copy).unwrap();
    bundle.script("cat /proc/cmdline; uname -r").change(|spec| {
        spec["vm"] = json!({ "kernel": { "path": copy, "initrd": initramfs, "parameters": ["clear.test=in-force"] } });
    });
    let planned = plan(&sandbox, &bundle);
    assert_eq!(planned["machine"]["kernel"]["path"].as_str().map(PathBuf::from), Some(copy));
    let output = sandbox.run(&bundle).expect(0);
    assert!(output.lines()[0].contains("clear.test=in-force"), "{output}");
    for (vm, words) in [
        (json!({ "kernel": { "path": "relative" } }), "vm.kernel.path"),
        (json!({ "kernel": { "path": "/no/such/kernel" } }), "/no/such/kernel"),
        (json!({ "kernel": { "path": "" }, "hypervisor": { "path": "/no/such/qemu" } }), "/no/such/qemu"),
        (
            json!({ "kernel": { "path": "" }, "hypervisor": { "path": "/q", "parameters": ["-x"] } }),
            "vm.hypervisor.parameters",
        ),
        (
            json!({ "kernel": { "path": "" }, "image": { "path": "/i", "format": "qcow2" } }),
            "vm.image.format",
        ),
    ] {
        bundle.change(|spec| spec["vm"] = vm);
        sandbox.run(&bundle).refused(words);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn both_boards_run_the_container() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("echo works; exit 2");
    annotate(&bundle, "chassis", "q35");
    assert_eq!(plan(&sandbox, &bundle)["machine"]["chassis"], "q35");
    assert_eq!(sandbox.run(&bundle).expect(2).text(), "works");
    annotate(&bundle, "console", "false");
    assert_eq!(sandbox.run(&bundle).expect(2).text(), "works");
}

#[test]
fn debians_packaged_kernel_runs_the_container_too() {
    let programs = Programs::get();
    let built = programs.mini_os_directory("debian").exists();
    assert!(built, "build it first: clear-mini-os build --kernel debian");
    let name = "debian";
    let sandbox = Sandbox::new();
    sandbox.configure_backend(&format!("[mini_os]\nname = {name:?}\n"));
    let bundle = sandbox.bundle();
    bundle.script("mkdir /dir; cat; ls -d /dir; exit 3");
    assert_eq!(sandbox.run_command(&bundle).input("input\n").run().expect(3).text(), "input\n/dir");
}

#[test]
fn require_kvm_runs_with_kvm_or_not_at_all() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let output = sandbox.cor(&["--require-kvm", "plan", "--bundle"]).arg(bundle.path()).run();
    if output.code == 0 {
        assert!(output.text().contains("\"kvm\""), "{output}");
    } else {
        output.refused("KVM");
        sandbox
            .cor(&["--require-kvm", "run", "--bundle"])
            .arg(bundle.path())
            .arg(sandbox.id())
            .run()
            .refused("KVM");
        let warned = sandbox.cor(&["plan", "--bundle"]).arg(bundle.path()).run().expect(0);
        assert!(warned.errors().contains("emulated"), "it says what it does and why: {warned}");
    }
    sandbox.configure_more("[machine]\naccelerator = \"emulation\"\n");
    sandbox
        .cor(&["--require-kvm", "plan", "--bundle"])
        .arg(bundle.path())
        .run()
        .refused("emulation is configured");
    sandbox.assert_nothing_left();
}
