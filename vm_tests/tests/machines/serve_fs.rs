//! `clear-vmm serve fs`: a directory for a guest of QEMU.

use crate::{noise, sum, sum_in_guest, text};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vm_tests::{Command, Guest, PARAMETERS, Programs, Running, Sandbox, initramfs, kernel, on_kvm, until};

/// A server of the directory `home`, and its socket.
fn serve(sandbox: &Sandbox) -> (Running, PathBuf) {
    let (socket, home) = (sandbox.path().join("fs.sock"), sandbox.path().join("home"));
    fs::create_dir_all(&home).unwrap();
    let command = Command::new(Programs::get().clear_vmm()).args(["serve", "fs", "--socket"]).arg(&socket);
    let server = command.arg("--share").arg(format!("{},tag=home", text(&home))).start();
    until("the server's socket", || socket.exists().then_some(()));
    (server, socket)
}

/// QEMU with memory that can be shared, and the directory by this device.
fn qemu(accelerator: &str, machine: &str, device: &str, socket: &Path) -> Command {
    let command =
        Command::new("qemu-system-x86_64").args(["-accel", accelerator, "-M", machine, "-m", "256M"]);
    let command = command.args(["-object", "memory-backend-memfd,id=ram,size=256M,share=on"]);
    let command = command.args(["-chardev", &format!("socket,id=fs,path={}", text(socket))]);
    let command = command.args(["-device", &format!("{device},chardev=fs,tag=home")]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
}

/// Lets a guest of QEMU use the directory, to its end.
fn used_by(machine: &str, device: &str, parameters: &str) {
    let Some(sandbox) = on_kvm() else { return };
    let big = noise(&sandbox, "home/big", 3);
    let home = sandbox.path().join("home");
    let (server, socket) = serve(&sandbox);
    let command = qemu("kvm", machine, device, &socket).args(["-cpu", "host", "-smp", "2", "-kernel"]);
    let command = command.arg(kernel()).arg("-initrd").arg(initramfs(&sandbox, &[]));
    let mut guest = Guest::start(&command.arg("-append").arg(format!("{PARAMETERS} reboot=t {parameters}")));
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    guest.run("mount -t virtiofs home /mnt");
    assert_eq!(guest.run(&sum_in_guest("/mnt/big")), sum(&big));
    guest
        .run("mkdir /mnt/new; cp /mnt/big /mnt/new/copy; echo text > /mnt/new/file; chown 7:8 /mnt/new/file");
    guest
        .run("ln -s file /mnt/new/link; cp /bin/busybox /mnt/new/; umount /mnt; mount -t virtiofs home /mnt");
    assert_eq!(guest.run("/mnt/new/busybox cat /mnt/new/link"), "text");
    assert_eq!(sum(&home.join("new/copy")), sum(&big));
    let file = fs::metadata(home.join("new/file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (7, 8));
    guest.reboot().expect(0);
    assert_eq!(server.wait().expect(0).errors(), "");
    assert!(!socket.exists());
}

#[test]
fn a_guest_on_qemu_q35_uses_a_directory() {
    used_by("q35,memory-backend=ram", "vhost-user-fs-pci", "");
}

#[test]
fn a_guest_on_qemu_microvm_uses_a_directory() {
    used_by("microvm,acpi=off,pcie=off,memory-backend=ram", "vhost-user-fs-device", "");
}

#[test]
fn an_emulated_client_is_refused() {
    let sandbox = Sandbox::new();
    let (server, socket) = serve(&sandbox);
    let client = qemu("tcg", "q35,memory-backend=ram", "vhost-user-fs-pci", &socket).run();
    assert_ne!(client.code, 0);
    server.wait().refused("its guest is emulated");
    assert!(!socket.exists());
}

#[test]
fn a_server_that_is_told_to_end_takes_its_socket_along() {
    let sandbox = Sandbox::new();
    let (server, socket) = serve(&sandbox);
    server.signal(libc::SIGTERM);
    server.wait().expect(128 + libc::SIGTERM);
    assert!(!socket.exists());
}
