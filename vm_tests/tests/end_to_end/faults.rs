//! kill -9 of anything at any moment, a guest that dies or never answers, a full disk: `delete` then leaves nothing.

use crate::GUEST_HALF;
use serde_json::json;
use std::fs;
use std::time::Duration;
use vm_tests::{Command, Container, Sandbox, send_signal, until};

#[test]
fn kill_9_of_the_keeper_takes_the_machine_along_and_delete_leaves_nothing() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let (pid, vmm) = (container.pid(), container.vmm_pid());
    send_signal(pid, libc::SIGKILL);
    assert_eq!(Container::reap(pid), 137);
    assert_eq!(container.status(), "stopped");
    until("the VMM to die", || {
        (!vm_tests::processes_with(sandbox.tag()).iter().any(|(p, _)| *p == vmm)).then_some(())
    });
    container.exec(&["true"]).run().refused("stopped");
    container.command(&["kill"]).run().refused("not running");
    container.delete();
    sandbox.assert_nothing_left();
}

#[test]
fn kill_9_of_the_machine_ends_the_container_with_a_clear_line() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("echo up; sleep 1000");
    let running = sandbox.run_command(&bundle).start();
    until("its first words", || running.output_so_far().text().contains("up").then_some(()));
    let id = sandbox.cor(&["list", "-q"]).ok();
    let file = sandbox.root().join(&id).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    send_signal(state["vmm_pid"].as_u64().unwrap() as u32, libc::SIGKILL);
    let output = running.wait();
    assert!(output.code > 128 || output.code == 255, "{output}");
    let errors = output.errors_without_warnings();
    assert!(errors.contains("signal 9") && errors.contains("cor why"), "{output}");
    assert_eq!(errors.lines().count(), 1, "{output}");
    sandbox.assert_nothing_left();
    let why = sandbox.cor(&["why", &id]).ok();
    assert!(why.contains("running the container") && why.contains("signal 9"), "{why}");
}

#[test]
fn kill_9_of_create_at_any_moment_leaves_nothing_after_delete_force() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    for moment in [20, 100, 250, 350, 600, 1200, 2000] {
        let id = sandbox.id();
        let running = sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(&id).start();
        std::thread::sleep(Duration::from_millis(moment));
        send_signal(running.pid(), libc::SIGKILL);
        let _ = running.wait();
        sandbox.cor(&["delete", "--force", &id]).run().expect(0);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn kill_9_of_the_keeper_while_it_boots_fails_create_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    for _ in 0..2 {
        let id = sandbox.id();
        let running = sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(&id).start();
        let file = sandbox.root().join(&id).join("state.json");
        let pid = until("the keeper", || {
            let state: serde_json::Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            Some(state["pid"].as_u64()? as u32)
        });
        send_signal(pid, libc::SIGKILL);
        running.wait().refused("keeper");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_signal_to_create_interrupts_it() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let id = sandbox.id();
    let running = sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(&id).start();
    until("the container's state", || sandbox.root().join(&id).join("state.json").exists().then_some(()));
    running.signal(libc::SIGTERM);
    let output = running.wait();
    assert_ne!(output.code, 0, "{output}");
    sandbox.cor(&["delete", "--force", &id]).run().expect(0);
    sandbox.assert_nothing_left();
}

#[test]
fn a_signal_to_run_while_it_boots_reaches_the_program_or_ends_the_boot() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("trap 'exit 143' TERM; sleep 1000 & wait");
    let id = sandbox.id();
    let mut running = sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(&id).start();
    until("the container's state", || sandbox.root().join(&id).join("state.json").exists().then_some(()));
    // Again and again: a first process without a handler yet is not ended by it, here as elsewhere.
    let code = until("its end", || {
        running.signal(libc::SIGTERM);
        running.ended()
    });
    assert_ne!(code, 0, "{}", running.output_so_far());
    sandbox.assert_nothing_left();
}

#[test]
fn kill_9_of_run_leaves_a_container_that_delete_force_removes() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("echo up; sleep 1000");
    let id = sandbox.id();
    let running = sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(&id).start();
    until("its first words", || running.output_so_far().text().contains("up").then_some(()));
    running.signal(libc::SIGKILL);
    let _ = running.wait();
    sandbox.cor(&["delete", "--force", &id]).run().expect(0);
    sandbox.assert_nothing_left();
}

#[test]
fn a_delete_that_was_killed_can_be_repeated() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    for moment in [1, 3, 10] {
        let running = container.command(&["delete", "--force"]).start();
        std::thread::sleep(Duration::from_millis(moment));
        running.signal(libc::SIGKILL);
        let _ = running.wait();
    }
    container.delete_force();
    sandbox.assert_nothing_left();
}

#[test]
fn a_guest_that_panics_ends_the_container_with_the_kernels_words() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.host_program(GUEST_HALF, "guest_half").program(&["guest_half", "eat", "200"]);
    bundle.change(|spec| {
        spec["linux"]["resources"]["memory"] = json!({ "limit": 50 << 20, "swap": 50 << 20 });
        spec["linux"]["sysctl"] = json!({ "vm.panic_on_oom": "2" });
    });
    let id = sandbox.id();
    let output = sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(&id).run();
    assert!(output.code > 128 || output.code == 255, "{output}");
    assert!(output.errors().contains("gave up"), "{output}");
    sandbox.assert_nothing_left();
    let why = sandbox.cor(&["why", &id]).ok();
    assert!(why.contains("Kernel panic") && why.contains("panic_on_oom"), "{why}");
}

/// Writes an initramfs with a busybox that is called `name` as its init.
fn other_init(path: &std::path::Path, script: &str) {
    let tree = path.with_extension("tree");
    for directory in ["bin", "dev", "proc"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    fs::write(tree.join("init"), format!("#!/bin/busybox sh\n{script}\n")).unwrap();
    fs::set_permissions(tree.join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let archive = format!("cd {0} && find . | cpio -o -H newc --quiet > {1}", tree.display(), path.display());
    Command::new("sh").args(["-c", &archive]).ok();
}

/// Configures another initramfs, on a kernel without other features than booting it.
fn boot(sandbox: &Sandbox, initramfs: &std::path::Path) {
    let programs = vm_tests::Programs::get();
    let kernel = programs.mini_os_directory(&programs.mini_os).join("vmlinux");
    sandbox.configure_backend(&format!(
        "[mini_os]\nname = {:?}\nkernel = {kernel:?}\nkernel_features = [\"virtio-mmio\"]\ninitramfs = {initramfs:?}\n[machine]\nboot_timeout_s = 8\n",
        programs.mini_os
    ));
}

#[test]
fn an_agent_that_never_answers_fails_create_at_its_deadline() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let initramfs = sandbox.path().join("silent.cpio");
    other_init(&initramfs, "echo this is no agent; exec /bin/busybox sleep 10000");
    boot(&sandbox, &initramfs);
    let line = sandbox.run(&bundle).refused("did not call");
    assert!(line.contains("boot"), "{line}");
    sandbox.assert_nothing_left();
    assert!(sandbox.cor(&["why"]).ok().contains("this is no agent"), "the console's last words");
}

#[test]
fn an_init_that_dies_fails_create_at_once_with_the_kernels_words() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let initramfs = sandbox.path().join("dying.cpio");
    other_init(&initramfs, "exit 1");
    boot(&sandbox, &initramfs);
    sandbox.run(&bundle).refused("Kernel panic");
    sandbox.assert_nothing_left();
}

#[test]
fn a_full_disk_fails_create_with_a_clear_line_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let root = sandbox.path().join("small");
    fs::create_dir(&root).unwrap();
    for size in ["4k", "8k", "16k"] {
        Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&root).ok();
        // What is left is less than a plan takes.
        let _ = fs::write(root.join("filler"), vec![1; 4096]);
        let output = sandbox
            .cor(&["run", "--root"])
            .arg(&root)
            .arg("--bundle")
            .arg(bundle.path())
            .arg(sandbox.id())
            .run();
        let left: Vec<_> =
            fs::read_dir(&root).unwrap().flatten().map(|e| e.file_name()).filter(|n| n == "c").collect();
        let deleted = sandbox.cor(&["delete", "--force", "--root"]).arg(&root).arg(sandbox.id()).run();
        Command::new("umount").arg(&root).ok();
        output.refused("No space left on device");
        deleted.expect(0);
        assert!(left.is_empty(), "nothing is left even without delete");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_stopped_keeper_does_not_hang_commands_that_do_not_need_it() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    send_signal(container.pid(), libc::SIGSTOP);
    assert_eq!(container.status(), "running");
    assert!(sandbox.cor(&["list"]).ok().contains("running"));
    container.delete_force();
    sandbox.assert_nothing_left();
}

#[test]
fn an_undo_that_finds_foreign_processes_in_the_control_group_ends_them() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| spec["linux"]["cgroupsPath"] = json!(format!("/{}/grp", sandbox.tag())));
    let container = sandbox.start(&bundle);
    let mut stray = Command::new("sleep").arg("1000").std().spawn().unwrap();
    for hierarchy in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
        let procs = format!("{hierarchy}/{}/grp/cgroup.procs", sandbox.tag());
        if fs::write(&procs, stray.id().to_string()).is_ok() {
            break;
        }
    }
    container.delete_force();
    sandbox.assert_nothing_left();
    assert!(!stray.wait().unwrap().success());
}
