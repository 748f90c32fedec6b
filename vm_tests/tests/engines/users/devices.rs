//! Devices of the host.

use crate::tests;
use std::fs;
use vm_tests::Command;
use vm_tests::engine::{Engine, is_ours};

tests![a_block_device_is_passed, a_device_that_cannot_be_passed_is_refused];

/// A loop device over a file, detached when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").arg("--detach").arg(&self.0).run();
    }
}

fn a_block_device_is_passed(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("disk");
    fs::write(&image, vec![0; 1 << 20]).expect("a disk");
    let disk = Loop(Command::new("losetup").args(["--find", "--show"]).arg(&image).ok());
    let script = "echo written | dd of=/dev/xyz conv=notrunc 2>/dev/null; sync; stat -c %F /dev/xyz; head -c 7 /dev/xyz";
    let output = engine.script(&[&format!("--device={}:/dev/xyz", disk.0)], script).expect(0);
    assert_eq!(output.text(), "block special file\nwritten");
    Command::new("blockdev").arg("--flushbufs").arg(&disk.0).ok();
    assert!(fs::read(&image).expect("the disk").starts_with(b"written\n"));
}

fn a_device_that_cannot_be_passed_is_refused(engine: &Engine) {
    if !is_ours() {
        return;
    }
    let output = engine.script(&["--device=/dev/loop-control"], "true");
    assert!(output.code != 0 && output.errors().contains("/dev/loop-control"), "{output}");
}
