//! Devices of the host in containers: disks are passed, what a machine cannot have is refused or left out.

use serde_json::{Value, json};
use vm_tests::{LoopDisk, Sandbox, mount};

/// An entry of `linux.devices`.
fn block(path: &str, disk: &LoopDisk) -> Value {
    let (major, minor) = disk.number();
    json!({"path": path, "type": "b", "major": major, "minor": minor, "fileMode": 0o640, "uid": 1000, "gid": 2000})
}

/// A rule that allows a disk.
fn allow(disk: &LoopDisk, access: &str) -> Value {
    let (major, minor) = disk.number();
    json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access})
}

fn rules(spec: &mut Value, rules: &[Value]) {
    let deny = json!({"allow": false, "access": "rwm"});
    spec["linux"]["resources"]["devices"] = [&[deny], rules].concat().into();
}

const WRITE: &str = "dd conv=notrunc,fsync 2>&1 of=";

#[test]
fn a_disk_of_the_host_is_read_and_written() {
    let sandbox = Sandbox::new();
    let disk = LoopDisk::new(&sandbox.path().join("disk"), 1 << 20, &[]);
    let other = LoopDisk::new(&sandbox.path().join("other"), 2 << 20, &[]);
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        spec["linux"]["devices"] = json!([block("/dev/deep/xyz", &disk), block("/dev/other", &other)]);
        rules(spec, &[allow(&disk, "rwm"), allow(&other, "rw")]);
    });
    let container = sandbox.start(&bundle);
    assert_eq!(
        container.sh(
            "stat -c '%F %a %u %g' /dev/deep/xyz; cat /sys/dev/block/$(stat -c '0x%t 0x%T' /dev/other | \
             while read a b; do echo $((a)):$((b)); done)/size"
        ),
        "block special file 640 1000 2000\n4096",
        "the node is of the disk that was asked for"
    );
    container.sh(&format!(
        "echo written to the one | {WRITE}/dev/deep/xyz; echo and the other | {WRITE}/dev/other seek=7"
    ));
    assert_eq!(container.sh("head -c 18 /dev/deep/xyz"), "written to the one");
    container.delete_force();
    assert!(disk.bytes().starts_with(b"written to the one\n\0"));
    assert!(other.bytes()[7 * 512..].starts_with(b"and the other\n\0"));
    assert_eq!(disk.bytes().len(), 1 << 20);
}

#[test]
fn a_disk_that_may_only_be_read_is_read_only_in_the_machine_too() {
    let sandbox = Sandbox::new();
    let by_rule = LoopDisk::new(&sandbox.path().join("by-rule"), 1 << 20, &[]);
    let by_itself = LoopDisk::new(&sandbox.path().join("by-itself"), 1 << 20, &["--read-only"]);
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        spec["linux"]["devices"] = json!([block("/dev/rule", &by_rule), block("/dev/itself", &by_itself)]);
        rules(spec, &[allow(&by_rule, "rm"), allow(&by_itself, "rwm")]);
    });
    let container = sandbox.start(&bundle);
    let numbers = "stat -c '0x%t 0x%T' /dev/rule /dev/itself | while read a b; do cat /sys/dev/block/$((a)):$((b))/ro; done";
    assert_eq!(container.sh(numbers), "1\n1", "the machine's kernel cannot write them");
    assert_eq!(container.sh("head -c 4096 /dev/rule | tr '\\0' 0 | head -c 3"), "000");
    for path in ["/dev/rule", "/dev/itself"] {
        let output = container.exec(&["sh", "-c", &format!("echo x | {WRITE}{path}")]).run();
        assert!(output.code != 0, "{path}: {output}");
    }
    container.delete_force();
    assert!(by_rule.bytes().iter().chain(&by_itself.bytes()).all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_no_rule_allows_stays_out_of_the_machine() {
    let sandbox = Sandbox::new();
    let disk = LoopDisk::new(&sandbox.path().join("disk"), 1 << 20, &[]);
    let output = sandbox.script(
        "stat -c %F /dev/xyz; head -c 1 /dev/xyz; cat /sys/block/*/serial 2>/dev/null | grep -c disk; true",
        |spec| {
            spec["linux"]["devices"] = json!([block("/dev/xyz", &disk)]);
            rules(spec, &[]);
        },
    );
    assert_eq!(output.text(), "block special file\n0");
    assert!(output.errors().contains("not permitted"), "{output}");
}

#[test]
fn a_container_that_may_open_every_device_gets_only_the_disks_that_are_bound_into_it() {
    let sandbox = Sandbox::new();
    let listed = LoopDisk::new(&sandbox.path().join("listed"), 1 << 20, &[]);
    let bound = LoopDisk::new(&sandbox.path().join("bound"), 1 << 20, &[]);
    let bundle = sandbox.bundle();
    bundle.script(&format!(
        "ls /dev; stat -c %F /dev/inside; echo by bind | {WRITE}/dev/inside; cat /sys/block/*/serial | grep -c disk; true"
    ));
    bundle.change(|spec| {
        spec["linux"]["devices"] = json!([
            block("/dev/listed", &listed),
            { "path": "/dev/cpuid", "type": "c", "major": 203, "minor": 0 },
            { "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 },
        ]);
        rules(spec, &[json!({"allow": true, "access": "rwm"})]);
        mount(spec, "/dev/inside", "bind", bound.node(), &["rbind"]);
    });
    let output = sandbox.run(&bundle).expect(0);
    let lines = output.lines();
    let has = |name: &str| lines.iter().any(|line| line == name);
    assert!(has("kmsg") && !has("listed") && !has("cpuid"), "{output}");
    assert!(has("block special file") && has("1"), "{output}");
    let errors = output.errors();
    let warnings: Vec<_> = errors.lines().filter(|line| line.contains("linux.devices")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("2 of 3 devices are the host's"), "{output}");
    assert!(bound.bytes().starts_with(b"by bind\n"));
    assert!(listed.bytes().iter().all(|byte| *byte == 0));
}

/// Misc devices, of which no kernel of ours has all.
const MISC: [(&str, u32); 4] =
    [("watchdog", 130), ("kvm", 232), ("device-mapper", 236), ("loop-control", 237)];

#[test]
fn devices_that_the_machines_kernel_may_have_are_there_if_it_has_them() {
    let sandbox = Sandbox::new();
    let device = |(name, minor): (&str, u32)| json!({"path": format!("/dev/{name}"), "type": "c", "major": 10, "minor": minor});
    let numbers = MISC.map(|(name, minor)| format!("{name} {minor}")).join("\n");
    let output = sandbox.script(
        &format!("while read name minor; do test -e /sys/dev/char/10:$minor; a=$?; test -e /dev/$name; echo $name $a $?; done <<E\n{numbers}\nE"),
        |spec| {
            spec["linux"]["devices"] = MISC.map(device).to_vec().into();
            rules(spec, &[json!({"allow": true, "access": "rwm"})]);
        },
    );
    let mut absent = Vec::new();
    for (line, entry) in output.expect(0).lines().iter().zip(MISC) {
        match line.strip_prefix(entry.0) {
            Some(" 0 0") => {}
            Some(" 1 1") => absent.push(entry),
            _ => panic!("{line}: the node is there if and only if the device is"),
        }
    }
    let refused = absent.first().expect("one that the kernel has not");
    let bundle = sandbox.bundle();
    bundle.program(&["true"]).change(|spec| spec["linux"]["devices"] = json!([device(*refused)]));
    let words = format!("\"/dev/{}\": the machine's kernel has no device 10:{}", refused.0, refused.1);
    sandbox.run(&bundle).refused(&words);
}

#[test]
fn what_a_machine_cannot_have_is_refused_before_it_is_made() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let disk = LoopDisk::new(&sandbox.path().join("disk"), 1 << 20, &[]);
    bundle.change(|spec| mount(spec, "/dev/bound", "bind", disk.node(), &["bind"]));
    sandbox.run(&bundle).refused("the device rules let nothing open block device");
    bundle.change(|spec| {
        spec["mounts"].as_array_mut().expect("mounts").pop();
        spec["linux"]["devices"] = json!([{"path": "/dev/nvram", "type": "c", "major": 10, "minor": 144}]);
    });
    sandbox.run(&bundle).refused("character device \"/dev/nvram\" (10:144) is the host's");
    bundle.change(|spec| {
        spec["linux"]["devices"] = json!([{"path": "/dev/none", "type": "b", "major": 4095, "minor": 1}]);
        rules(spec, &[json!({"allow": true, "type": "b", "access": "rwm"})]);
    });
    sandbox.run(&bundle).refused("the host has no block device \"/dev/none\" (4095:1)");
}
