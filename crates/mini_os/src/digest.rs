//! SHA-256 of files, and keys: the hash of everything that goes into a build.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Collects the inputs of a build. Two builds have the same key only if every field has the same value.
#[derive(Clone)]
pub struct Key(Sha256);

impl Key {
    /// Starts a key for one kind of result. Raise `format` when the same inputs give another output.
    pub fn new(kind: &str, format: u32) -> Key {
        Key(Sha256::new()).field("kind", kind).field("format", &format.to_string())
    }

    /// Adds an input. Lengths are hashed too, so fields cannot run into each other.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Key {
        for part in [name, value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// The key as a directory name: 32 hexadecimal digits.
    pub fn finish(self) -> String {
        let mut text = hex(&self.0.finalize());
        text.truncate(32);
        text
    }
}

/// SHA-256 and length of a file.
///
/// # Errors
/// Those of opening and reading it.
pub fn file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex(&hash.finalize()), size));
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_hash_is_sha256() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(file(&path).unwrap(), (expected.into(), 3));
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let key = |a: &str, b: &str| Key::new("t", 1).field(a, b).finish();
        assert_ne!(key("ab", "c"), key("a", "bc"));
        assert_eq!(key("a", "b"), key("a", "b"));
        assert_eq!(key("a", "b").len(), 32);
    }
}
