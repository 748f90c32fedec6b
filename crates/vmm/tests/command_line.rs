//! `clear-vmm run` as a user types it: what is refused, and that a refused run leaves nothing behind. Nothing here needs KVM.

use std::path::Path;
use std::process::{Command, Output};

fn clear_vmm(words: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clear-vmm")).args(words).current_dir(directory).output().unwrap()
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
