//! `clear-vmm run` as a user types it: what is refused, and that a refused run leaves nothing behind. Nothing here needs KVM.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn clear_vmm(words: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clear-vmm"))
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The one line that a refused run says; it must say that `part`.
fn refused(words: &[&str], directory: &Path, part: &str) {
    let output = clear_vmm(words, directory);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{words:?}");
    assert_eq!(text.lines().count(), 1, "{words:?}: {text}");
    assert!(text.contains(part), "{words:?}: {text}");
    assert!(output.stdout.is_empty(), "{words:?}");
}

#[test]
fn names_of_sockets_go_when_the_run_fails() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let words =
            ["run", "--kernel", "none", "--vsock", "v.sock", "--control", "c.sock", "--console", "none"];
        refused(&words, directory.path(), "none");
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}

#[test]
fn kernels_and_initramfs_are_regular_files() {
    let directory = tempfile::tempdir().unwrap();
    let elf = env!("CARGO_BIN_EXE_clear-vmm");
    for files in [["--kernel", "/dev/zero"].as_slice(), &["--kernel", elf, "--initramfs", "/dev/zero"]] {
        let words = [&["run", "--console", "none"], files].concat();
        refused(&words, directory.path(), "/dev/zero: no regular file");
    }
}

#[test]
fn a_most_of_memory_is_steps_above_the_least_and_below_the_hosts() {
    let directory = tempfile::tempdir().unwrap();
    let with = |max, part| {
        let words = ["run", "--kernel", "none", "--memory", "256M", "--memory-max", max, "--console", "none"];
        refused(&words, directory.path(), part);
    };
    ["300M", "256M", "128M"].into_iter().for_each(|max| with(max, "a multiple of 128 MiB more"));
    with("1024T", "the host has");
}

/// Offset, guest address, bytes in the file and in memory of a segment.
type Segment = [u64; 4];

/// A Linux kernel by its headers, of so many bytes, entered at 1 MiB.
fn kernel(segments: &[Segment], length: usize) -> Vec<u8> {
    let mut file = vec![0; length.max(0x400)];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(18, &62_u16.to_le_bytes());
    put(24, &0x10_0000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &(segments.len() as u16).to_le_bytes());
    for (index, segment) in segments.iter().enumerate() {
        let at = 64 + 56 * index;
        put(at, &1_u32.to_le_bytes());
        for (place, value) in [8, 24, 32, 40].into_iter().zip(segment) {
            put(at + place, &value.to_le_bytes());
        }
    }
    file.truncate(length);
    file
}

const WHOLE: Segment = [0x1000, 0x10_0000, 0x1000, 0x2000];

#[test]
fn kernels_that_are_damaged_are_refused_by_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let huge = [0x1000, 0x10_0000, 0x1000, 1 << 40];
    let at_the_end = [0x1000, u64::MAX - 0x1000, 0x1000, 0x1000];
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("empty", Vec::new(), "neither a 64-bit x86 ELF file (vmlinux) nor a bzImage"),
        ("text", b"#!/bin/sh\n".to_vec(), "neither a 64-bit x86 ELF file (vmlinux) nor a bzImage"),
        ("half-a-header", kernel(&[WHOLE], 40), "damaged or cut off"),
        ("no-table", kernel(&[WHOLE], 100), "damaged or cut off"),
        ("cut", kernel(&[WHOLE], 0x1800), "a segment needs 4096 bytes at offset 4096, the file has 6144"),
        ("nothing-to-load", kernel(&[], 0x2000), "damaged or cut off"),
        ("overlap", kernel(&[WHOLE, [0x1000, 0x10_1000, 0x1000, 0x1000]], 0x2000), "overlap"),
        ("huge", kernel(&[huge], 0x2000), "outside of the guest's RAM"),
        ("beyond", kernel(&[WHOLE, at_the_end], 0x2000), "outside of the guest's RAM"),
    ];
    for (name, content, part) in &cases {
        fs::write(directory.path().join(name), content).unwrap();
        refused(&["run", "--console", "none", "--vsock", "v", "--kernel", name], directory.path(), part);
    }
    assert_eq!(directory.path().read_dir().unwrap().count(), cases.len());
}

#[test]
fn files_of_other_kinds_are_refused_and_nobody_waits_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("kernel"), kernel(&[WHOLE], 0x2000)).unwrap();
    fs::create_dir(path("directory")).unwrap();
    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    fs::File::create(path("large")).unwrap().set_len(1 << 40).unwrap();
    fs::File::create(path("odd")).unwrap().set_len(1000).unwrap();
    let with = |words: &[&str], part: &str| {
        let all = [&["run", "--console", "none", "--vsock", "v"], words].concat();
        refused(&all, directory.path(), part);
    };
    with(&["--kernel", "fifo"], "fifo: no regular file");
    with(&["--kernel", "directory"], "directory");
    with(&["--kernel", "kernel", "--initramfs", "fifo"], "fifo: no regular file");
    with(&["--kernel", "kernel", "--initramfs", "large"], "the initramfs needs 1099511627776 bytes");
    with(&["--kernel", "kernel", "--disk", "missing"], "opening the disk missing");
    with(&["--kernel", "kernel", "--disk", "directory,ro"], "opening the disk directory");
    with(&["--kernel", "kernel", "--pmem", "odd"], "multiple of 2 MiB");
    with(&["--kernel", "kernel", "--share", "kernel,tag=t"], "opening the shared directory kernel");
    with(&["--kernel", "kernel", "--share", "missing,tag=t"], "opening the shared directory missing");
    with(&["--kernel", "kernel", "--net", "tap=no-such-tap"], "no network interface \"no-such-tap\"");
    assert_eq!(directory.path().read_dir().unwrap().count(), 5);
}

/// A spec that is in order but for its kernel's file.
fn spec() -> Value {
    json!({
        "version": 1, "name": "test", "accelerator": "kvm", "chassis": "clear", "vcpus": 1, "memory_mib": 64,
        "kernel": { "path": "kernel", "cmdline": [], "initramfs": null }, "console": false, "devices": []
    })
}

#[test]
fn specs_that_cannot_be_are_refused_by_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("kernel"), kernel(&[WHOLE], 0x2000)).unwrap();
    fs::File::create(path("image")).unwrap().set_len(2 << 20).unwrap();
    let with = |change: &dyn Fn(&mut Value), part: &str| {
        let mut spec = spec();
        change(&mut spec);
        fs::write(path("spec"), spec.to_string()).unwrap();
        refused(&["run", "--console", "none", "--control", "c", "--spec", "spec"], directory.path(), part);
    };
    with(
        &|s| s["version"] = json!(2),
        "machine spec version 2 is not supported; this program speaks version 1",
    );
    with(&|s| s["version"] = json!("1"), "reading the spec: invalid type");
    with(&|s| s["bios"] = json!(true), "unknown field `bios`");
    with(&|s| s["kernel"]["modules"] = json!([]), "unknown field `modules`");
    with(&|s| s["devices"] = json!([{ "floppy": {} }]), "unknown variant `floppy`");
    with(&|s| s["vcpus"] = json!(0), "1 to 255 vCPUs, not 0");
    with(&|s| s["vcpus"] = json!(256), "1 to 255 vCPUs, not 256");
    with(&|s| s["memory_mib"] = json!(1), "at least 48 MiB of memory, not 1 MiB");
    with(&|s| s["memory_mib"] = json!(u64::MAX), "the host has");
    with(
        &|s| s["memory_mib"] = json!(1_u64 << 30),
        "the machine wants 1073741824 MiB of memory, the host has",
    );
    with(&|s| s["kernel"]["cmdline"] = json!(["x".repeat(2048)]), "the kernel command line has 2048 bytes");
    with(&|s| s["kernel"]["cmdline"] = json!(["a\nb"]), "line break");
    with(&|s| s["accelerator"] = json!("emulation"), "needs KVM");
    with(
        &|s| s["devices"] = json!([{ "pmem": { "path": "image", "size": 4 << 20 } }]),
        "has 2097152 bytes, it should have 4194304",
    );
    with(
        &|s| s["devices"] = json!([{ "pmem": { "path": "image", "size": 1000 } }]),
        "not a multiple of 2 MiB",
    );
    with(&|s| s["devices"] = json!([{ "vsock": { "agent_port": 1024 } }]), "--agent fd:N");
    with(&|s| s["devices"] = json!([{ "agent-channel": { "port": "a" } }]), "clear-vmm has no such device");
    for text in ["", "{", "[]", "\u{1b}[2J", "{\"version\":1}"] {
        fs::write(path("spec"), text).unwrap();
        refused(&["run", "--console", "none", "--spec", "spec"], directory.path(), "reading the spec: ");
    }
    fs::write(path("spec"), vec![b' '; (1 << 20) + 1]).unwrap();
    refused(&["run", "--console", "none", "--spec", "spec"], directory.path(), "more than 1048576 bytes");
    fs::write(path("spec"), [0xFF; 9]).unwrap();
    refused(&["run", "--console", "none", "--spec", "spec"], directory.path(), "reading the spec: ");
    assert_eq!(directory.path().read_dir().unwrap().count(), 3);
}

#[test]
fn options_that_cannot_be_say_so_and_how_to_find_out_more() {
    let directory = tempfile::tempdir().unwrap();
    for (words, part) in [
        (["--memory", "none"], "'none' for '--memory"),
        (["--net", "mac=1"], "for '--net"),
        (["--share", "/tmp"], "DIRECTORY,tag=TAG is expected"),
        (["--bios", "x"], "unexpected argument '--bios'"),
    ] {
        let output = clear_vmm(&[&["run", "--kernel", "k"], words.as_slice()].concat(), directory.path());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains(part), "{words:?}: {text}");
    }
    for cpus in ["0", "256"] {
        let words = ["run", "--console", "none", "--control", "c", "--kernel", "k", "--cpus", cpus];
        refused(&words, directory.path(), &format!("1 to 255 vCPUs, not {cpus}"));
    }
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}
