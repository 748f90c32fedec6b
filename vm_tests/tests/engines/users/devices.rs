//! Devices of the host.

use crate::tests;
use std::fs;
use vm_tests::engine::{Engine, is_ours};
use vm_tests::{Command, LoopDisk};

tests![
    a_block_device_is_passed,
    a_block_device_may_be_passed_for_reading_only,
    a_device_that_cannot_be_passed_is_refused,
    a_privileged_container_gets_the_disk_that_is_bound_into_it,
];

const WRITE: &str = "echo written | dd of=/dev/xyz conv=notrunc 2>/dev/null && sync";

/// A disk of zeros.
fn disk(directory: &tempfile::TempDir) -> LoopDisk {
    LoopDisk::new(&directory.path().join("disk"), 1 << 20, &[])
}

fn a_block_device_is_passed(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = disk(&directory);
    let script = format!("{WRITE}; stat -c %F /dev/xyz; head -c 7 /dev/xyz");
    let output = engine.script(&[&format!("--device={}:/dev/xyz", disk.node())], &script).expect(0);
    assert_eq!(output.text(), "block special file\nwritten");
    assert!(disk.bytes().starts_with(b"written\n"));
}

fn a_block_device_may_be_passed_for_reading_only(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = disk(&directory);
    let script = format!("head -c 3 /dev/xyz | tr '\\0' 0; {WRITE}");
    let output = engine.script(&[&format!("--device={}:/dev/xyz:r", disk.node())], &script);
    assert!(output.code != 0 && output.text() == "000", "{output}");
    assert!(disk.bytes().iter().all(|byte| *byte == 0));
}

fn a_device_that_cannot_be_passed_is_refused(engine: &Engine) {
    if !is_ours() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let node = directory.path().join("nvram");
    // The memory of the host's clock, whether or not this host has one.
    Command::new("mknod").arg(&node).args(["c", "10", "144"]).ok();
    let output = engine.script(&[&format!("--device={}", node.display())], "true");
    assert!(
        output.code != 0 && output.errors().contains("nvram") && output.errors().contains("10:144"),
        "{output}"
    );
}

fn a_privileged_container_gets_the_disk_that_is_bound_into_it(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = disk(&directory);
    let bind = format!("--volume={}:/dev/xyz", disk.node());
    engine.script(&["--privileged", &bind], WRITE).expect(0);
    assert!(disk.bytes().starts_with(b"written\n"));
    if is_ours() {
        let listed = format!("test -e {}", disk.node());
        let output = engine.script(&["--privileged"], &listed).expect(1);
        assert!(fs::exists(disk.node()).expect("a look at it"), "{output}");
    }
}
