//! Builds the guest: for this machine's own target, without its operating system.
//!
//! Not for `x86_64-unknown-none`, which a toolchain has only when it was asked for. What differs are vector registers, which the
//! guest has no use for: it copies by string instructions, and loops are not vectorized.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the guest lies: where Linux does, above all that the boot protocol writes.
const ADDRESS: &str = "-Wl,--image-base=0x1000000";

/// The guest's program, made in `directory`.
pub fn guest(directory: &Path) -> PathBuf {
    let (source, program) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/guest/main.rs"), directory.join("guest"));
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "guest", "--deny", "warnings"]);
    for option in
        ["opt-level=s", "panic=abort", "relocation-model=static", "no-vectorize-loops", "no-vectorize-slp"]
    {
        rustc.args(["-C", option]);
    }
    for argument in ["-nostartfiles", "-nostdlib", "-static", ADDRESS, "-Wl,--build-id=none"] {
        rustc.arg("-C").arg(format!("link-arg={argument}"));
    }
    let output = rustc.arg("-o").arg(&program).arg(&source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}
