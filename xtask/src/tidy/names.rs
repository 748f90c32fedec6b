//! No crate or module has a name that says nothing.

use super::Complaint;
use crate::tree::Tree;

const EMPTY_NAMES: [&str; 8] = ["util", "utils", "common", "base", "helper", "helpers", "misc", "shared"];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs") || file.path.ends_with("/Cargo.toml")) {
        let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
        if let Some(name) = stem.split('/').find(|part| EMPTY_NAMES.contains(part)) {
            complaints.push(complaint(&file.path, 1, name));
        }
        for (line, text) in file.lines().filter(|_| file.path.ends_with(".rs")) {
            // Modules written in place; those with a file of their own are found by its name.
            let text = text.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let inline = text.strip_prefix("mod ").and_then(|rest| rest.strip_suffix('{')).map(str::trim);
            if let Some(name) = inline.filter(|name| EMPTY_NAMES.contains(name)) {
                complaints.push(complaint(&file.path, line, name));
            }
        }
    }
    complaints
}

fn complaint(path: &str, line: usize, name: &str) -> Complaint {
    Complaint::new(path, line, format!("`{name}` says nothing: name the crate or module for what it gives"))
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn modules_crates_and_inline_modules() {
        let files = [
            ("crates/util/Cargo.toml", ""),
            ("crates/agent/src/helpers.rs", ""),
            ("crates/agent/src/common/x.rs", ""),
            ("crates/agent/src/x.rs", "fn a() {}\npub mod base {\n}\nmod tests {\n}\nmod basement {\n}\n"),
            ("crates/agent/src/database.rs", ""),
        ];
        assert_eq!(
            places(check, &files),
            ["crates/agent/src/common/x.rs:1", "crates/agent/src/helpers.rs:1", "crates/agent/src/x.rs:2", "crates/util/Cargo.toml:1"]
        );
    }
}
