//! Files that must stand at the top.

use super::Complaint;
use crate::tree::Tree;

/// Path, and words that must be in it.
const NEEDED: [(&str, &str); 4] = [
    ("LICENSE", "Apache License"),
    ("CHANGELOG.md", "Changelog"),
    ("README.md", "make demo"),
    ("ARCHITECTURE.md", "Invariants"),
];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, words) in NEEDED {
        match tree.file(path) {
            None => complaints.push(Complaint::new(path, 1, "does not exist: write it")),
            Some(file) if !file.text.to_lowercase().contains(&words.to_lowercase()) => {
                complaints.push(Complaint::new(path, 1, format!("does not say \"{words}\": restore that part")));
            }
            Some(_) => {}
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn missing_or_hollow() {
        let files = [("LICENSE", "Apache License\n"), ("CHANGELOG.md", "nothing\n"), ("README.md", "type `make demo`\n")];
        assert_eq!(places(check, &files), ["CHANGELOG.md:1", "ARCHITECTURE.md:1"]);
    }
}
