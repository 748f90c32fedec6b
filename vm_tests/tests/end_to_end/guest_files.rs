//! What a container sees: mounts and their options, devices, links, the read-only root.

use serde_json::json;
use std::fs;
use vm_tests::{Sandbox, full_capabilities, mount};

#[test]
fn the_default_mounts_devices_and_links_are_there() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let types = container.sh("awk '{print $2, $3}' /proc/mounts | sort");
    for expected in [
        "/dev tmpfs",
        "/dev/mqueue mqueue",
        "/dev/pts devpts",
        "/dev/shm tmpfs",
        "/proc proc",
        "/sys sysfs",
        "/sys/fs/cgroup cgroup2",
    ] {
        assert!(types.lines().any(|line| line == expected), "{expected} in\n{types}");
    }
    let options = container.sh("awk '$2 == \"/dev/shm\" || $2 == \"/sys\" {print $4}' /proc/mounts");
    for words in options.lines() {
        assert!(["nosuid", "nodev", "noexec"].iter().all(|word| words.contains(word)), "{words}");
    }
    let nodes = container.sh("cd /dev; stat -c '%n %F %t,%T %a' null zero full random urandom tty");
    let expected = ["null", "zero", "full", "random", "urandom", "tty"]
        .iter()
        .zip(["1,3", "1,5", "1,7", "1,8", "1,9", "5,0"]);
    let expected: Vec<_> =
        expected.map(|(name, number)| format!("{name} character special file {number} 666")).collect();
    assert_eq!(nodes.lines().collect::<Vec<_>>(), expected);
    let links = container.sh("for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done");
    assert_eq!(links, "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx");
    assert_eq!(container.sh("echo x > /dev/null; head -c 5 /dev/zero | wc -c; head -c 9 /dev/urandom | wc -c; echo q > /dev/shm/q; cat /dev/shm/q"), "5\n9\nq");
    let full = container.exec(&["sh", "-c", "echo x > /dev/full"]).run();
    assert!(full.errors().contains("No space left"), "{full}");
}

#[test]
fn nothing_of_the_guests_own_root_is_visible() {
    let sandbox = Sandbox::new();
    let output = sandbox
        .script("ls -a /; cat /proc/[0-9]*/comm; awk '$5 == \"/\"' /proc/self/mountinfo | wc -l", |_| {});
    let lines = output.lines();
    assert!(!lines.iter().any(|line| line.contains("init") || line.contains("agent")), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "1", "the old root is gone");
}

#[test]
fn devices_of_the_configuration_are_made_and_others_are_forbidden() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        spec["linux"]["devices"] = json!([
            { "path": "/dev/my-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 2000 },
            { "path": "/dev/deep/fifo", "type": "p", "fileMode": 0o600 },
        ]);
        spec["linux"]["resources"]["devices"] = json!([
            { "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" }
        ]);
    });
    let container = sandbox.start(&bundle);
    assert_eq!(
        container.sh("stat -c '%F %t,%T %a %u %g' /dev/my-null /dev/deep/fifo"),
        "character special file 1,3 640 1000 2000\nfifo 0,0 600 0 0"
    );
    container.sh("echo x > /dev/my-null");
    let memory =
        container.exec(&["sh", "-c", "mknod /dev/mem-of-mine c 1 1 && head -c 1 /dev/mem-of-mine"]).run();
    assert!(memory.code != 0 && memory.errors().contains("not permitted"), "{memory}");
    container.sh("mknod /a-null c 1 3 || true");
}

#[test]
fn tmpfs_takes_its_options_and_tmpcopyup() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.file("/seed/file", "from the image", 0o640).file("/seed/d/inner", "deep", 0o600);
    bundle.change(|spec| {
        mount(
            spec,
            "/t",
            "tmpfs",
            "tmpfs",
            &["nosuid", "nodev", "noexec", "size=64k", "mode=1750", "uid=1000", "gid=2000"],
        );
        mount(spec, "/r", "tmpfs", "tmpfs", &["ro"]);
        mount(spec, "/seed", "tmpfs", "tmpfs", &["tmpcopyup"]);
        mount(spec, "/n", "tmpfs", "tmpfs", &["noatime", "nodiratime"]);
    });
    let container = sandbox.start(&bundle);
    assert_eq!(container.sh("stat -c '%a %u %g' /t; df -k /t | awk 'END {print $2}'"), "1750 1000 2000\n64");
    let options = container.sh("awk '$2 == \"/t\" || $2 == \"/n\" {print $4}' /proc/mounts");
    assert!(options.contains("nosuid,nodev,noexec") && options.contains("noatime,nodiratime"), "{options}");
    let fails = |script: &str, words: &str| {
        let output = container.exec(&["sh", "-c", script]).run();
        assert!(output.code != 0 && output.errors().contains(words), "{output}");
    };
    fails("cp /bin/busybox /t/sh; head -c 100000 /dev/zero > /t/big", "No space left");
    fails("rm /t/*; printf '#!/bin/sh\\n' > /t/x; chmod 755 /t/x; /t/x", "ermission denied");
    fails("echo x > /r/x", "Read-only");
    assert_eq!(
        container.sh("cat /seed/file /seed/d/inner; stat -c %a /seed/file; echo changed > /seed/file"),
        "from the imagedeep640"
    );
    assert_eq!(
        fs::read_to_string(bundle.rootfs("/seed/file")).unwrap(),
        "from the image",
        "the copy was changed"
    );
}

#[test]
fn directories_and_single_files_are_bound_read_write_and_read_only() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let host = |name: &str| sandbox.path().join(name);
    fs::create_dir_all(host("dir/sub")).unwrap();
    for name in ["dir/file", "dir/sub/file", "one-rw", "one-ro"] {
        fs::write(host(name), name).unwrap();
    }
    fs::create_dir(host("dir-ro")).unwrap();
    fs::write(host("dir-ro/file"), "ro").unwrap();
    bundle.change(|spec| {
        mount(spec, "/v", "bind", host("dir"), &["rbind", "rw", "nosuid", "nodev"]);
        mount(spec, "/v-ro", "bind", host("dir-ro"), &["rbind", "ro"]);
        mount(spec, "/etc/one-rw", "bind", host("one-rw"), &["bind"]);
        mount(spec, "/etc/one-ro", "none", host("one-ro"), &["bind", "ro"]);
        mount(spec, "/v/over", "bind", host("dir-ro"), &["bind"]);
    });
    let container = sandbox.start(&bundle);
    assert_eq!(
        container.sh("cd /etc; cat /v/file /v/sub/file /v-ro/file one-rw one-ro /v/over/file"),
        "dir/filedir/sub/fileroone-rwone-roro"
    );
    container.sh("echo from the guest > /v/new; echo changed > /etc/one-rw; echo more >> /v/sub/file; mkdir /v/made; rm /v/file");
    assert_eq!(fs::read_to_string(host("dir/new")).unwrap(), "from the guest\n");
    assert_eq!(fs::read_to_string(host("one-rw")).unwrap(), "changed\n");
    assert_eq!(fs::read_to_string(host("dir/sub/file")).unwrap(), "dir/sub/filemore\n");
    assert!(host("dir/made").is_dir() && !host("dir/file").exists());
    for script in [
        "echo x > /etc/one-ro",
        "echo x > /v-ro/file",
        "touch /v-ro/new",
        "rm /v-ro/file",
        "mkdir /v-ro/d",
        "chmod 777 /v-ro/file",
    ] {
        let output = container.exec(&["sh", "-c", script]).run();
        assert!(output.code != 0 && output.errors().contains("Read-only"), "{output}");
    }
    // Also for a guest that remounts: the host's side is read-only.
    let remounted =
        container.exec(&["sh", "-c", "mount -o remount,bind,rw /v-ro; echo x > /v-ro/file"]).run();
    assert_ne!(remounted.code, 0, "{remounted}");
    assert_eq!(fs::read_to_string(host("dir-ro/file")).unwrap(), "ro");
    fs::write(host("dir/from-host"), "later").unwrap();
    assert_eq!(container.sh("cat /v/from-host"), "later", "the host's changes are seen");
    let options = container.sh("awk '$2 == \"/v\" {print $4}' /proc/mounts");
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
}

#[test]
fn recursive_options_hold_for_mounts_below() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let tree = sandbox.path().join("tree");
    fs::create_dir_all(tree.join("inner")).unwrap();
    vm_tests::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(tree.join("inner")).ok();
    fs::write(tree.join("inner/file"), "inner").unwrap();
    bundle.change(|spec| {
        mount(spec, "/rro", "bind", &tree, &["rbind", "rro"]);
        mount(spec, "/plain", "bind", &tree, &["bind"]);
    });
    let output = {
        bundle.script(
            "cat /rro/inner/file; ls /plain/inner | wc -l; echo x > /rro/inner/file; echo x > /rro/new",
        );
        sandbox.run(&bundle)
    };
    // A guest that remounts meets the host, which refuses too.
    bundle.change(full_capabilities);
    bundle.script("mount -o remount,bind,rw /rro && echo remounted; echo x > /rro/inner/file");
    let remounted = sandbox.run(&bundle);
    vm_tests::Command::new("umount").arg(tree.join("inner")).ok();
    let output = output.expect(1);
    assert_eq!(output.text(), "inner0");
    assert_eq!(output.errors().matches("Read-only").count(), 2, "{output}");
    assert_eq!(remounted.text(), "remounted", "{remounted}");
    assert!(remounted.code != 0 && remounted.errors().contains("Read-only"), "{remounted}");
}

#[test]
fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        spec["root"]["readonly"] = json!(true);
        mount(spec, "/tmp", "tmpfs", "tmpfs", &[]);
    });
    let container = sandbox.start(&bundle);
    let output = container.exec(&["sh", "-c", "echo x > /file"]).run().expect(1);
    assert!(output.errors().contains("Read-only"), "{output}");
    assert_eq!(container.sh("echo y > /tmp/file; cat /tmp/file"), "y");
    assert!(!bundle.rootfs("/file").exists());
}

#[test]
fn mount_points_that_escape_by_links_stay_in_the_root() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let outside = sandbox.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, bundle.rootfs("/link")).unwrap();
    std::os::unix::fs::symlink("../../../../../../tmp", bundle.rootfs("/up")).unwrap();
    bundle.script("grep -c ' /up\\| /tmp/m ' /proc/mounts; ls -d /tmp/m").change(|spec| {
        mount(spec, "/link/m", "tmpfs", "tmpfs", &[]);
        mount(spec, "/up/m", "tmpfs", "tmpfs", &[]);
    });
    assert_eq!(sandbox.run(&bundle).expect(0).text(), "1\n/tmp/m");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(bundle.rootfs("/tmp/m").is_dir());
}

#[test]
fn propagation_of_mounts_is_as_configured() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let dir = sandbox.path().join("dir");
    fs::create_dir(&dir).unwrap();
    bundle.script("grep -E ' /(s|p) ' /proc/self/mountinfo | awk '{print $5, $7}'; awk '$5 == \"/\" {print $5, $7}' /proc/self/mountinfo").change(|spec| {
        mount(spec, "/s", "bind", &dir, &["rbind", "rshared"]);
        mount(spec, "/p", "bind", &dir, &["rbind", "rprivate"]);
        spec["linux"]["rootfsPropagation"] = json!("private");
    });
    let lines = sandbox.run(&bundle).expect(0).lines();
    assert!(lines[0].starts_with("/s shared:"), "{lines:?}");
    assert_eq!(lines[1], "/p -");
    assert_eq!(lines[2], "/ -");
}

/// pivot_root(2) refuses a shared mount, so a root that is to be shared becomes so behind it.
#[test]
fn a_root_can_be_shared() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("awk '$5 == \"/\" {print $7}' /proc/self/mountinfo").change(|spec| {
        spec["linux"]["rootfsPropagation"] = json!("shared");
    });
    let output = sandbox.run(&bundle).expect(0);
    assert!(output.text().starts_with("shared:"), "{output}");
}
