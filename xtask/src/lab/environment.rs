//! Which variables of the caller the command in the lab sees: what builds and tests read, nothing of the caller's session.

use super::wire::Bytes;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

/// Passed on as they are.
const NAMES: [&str; 11] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "NO_COLOR", "LANG", "TZ", "CARGO"];

/// Passed on when the name begins so.
const PREFIXES: [&str; 7] = ["CARGO_", "CLEAR_", "RUST_", "RUSTUP_", "LC_", "PROPTEST_", "UPDATE_"];

/// Whether a variable is passed on.
fn passes(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    NAMES.iter().any(|known| known.as_bytes() == name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// The variables to pass on, by name, and `CLEAR_LAB=1`, by which a program sees where it is.
pub fn filter(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(Bytes, Bytes)> {
    let mut chosen: Vec<_> = all
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.into_vec(), value.into_vec()))
        .collect();
    chosen.retain(|(name, _)| name != b"CLEAR_LAB");
    chosen.push((b"CLEAR_LAB".to_vec(), b"1".to_vec()));
    chosen.sort();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_see_theirs_and_sessions_keep_theirs() {
        let names = [
            "PATH",
            "CARGO_TARGET_DIR",
            "CARGO",
            "CARGOX",
            "SSH_AUTH_SOCK",
            "DBUS_SESSION_BUS_ADDRESS",
            "LC_ALL",
        ];
        let all = names.into_iter().chain(["LD_LIBRARY_PATH", "CLEAR_LAB"]);
        let chosen = filter(all.map(|name| (name.into(), OsString::from_vec(vec![0xff]))));
        let chosen: Vec<_> =
            chosen.iter().map(|(name, value)| (std::str::from_utf8(name).unwrap(), &value[..])).collect();
        let raw = &[0xff][..];
        assert_eq!(
            chosen,
            [("CARGO", raw), ("CARGO_TARGET_DIR", raw), ("CLEAR_LAB", b"1"), ("LC_ALL", raw), ("PATH", raw)]
        );
    }
}
