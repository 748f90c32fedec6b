//! No blanks at the end of a line, no tabs in Rust, and each file ends with one newline.

use super::Complaint;
use crate::tree::Tree;

/// Recorded data is kept as it came.
fn is_recorded(path: &str) -> bool {
    path.ends_with(".patch") || path.contains("/testdata/") || path.contains("/golden/") || path.starts_with("fuzz/seeds/")
}

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.files.iter().filter(|file| !is_recorded(&file.path)) {
        for (number, line) in file.lines() {
            if line.ends_with([' ', '\t', '\r']) {
                complaints.push(Complaint::new(&file.path, number, "white space at the end of the line: remove it"));
            }
            if file.path.ends_with(".rs") && line.starts_with('\t') {
                complaints.push(Complaint::new(&file.path, number, "tab: run cargo fmt"));
            }
        }
        let last = file.text.lines().count();
        if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
            complaints.push(Complaint::new(&file.path, last, "must end with exactly one newline"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn ends_of_lines_and_files() {
        let files = [
            ("a.md", "one \ntwo\n"),
            ("b.rs", "\tx\n"),
            ("c", "no newline"),
            ("d", "two newlines\n\n"),
            ("e", "dos\r\n"),
            ("f", ""),
            ("good", "good\n"),
            ("x/golden/f", "kept \n"),
        ];
        assert_eq!(places(check, &files), ["a.md:1", "b.rs:1", "c:1", "d:2", "e:1"]);
    }
}
