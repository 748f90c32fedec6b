//! A Rust file of more than 800 lines is two things in one room.

use super::Complaint;
use crate::tree::Tree;

const MOST_LINES: usize = 800;

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let long = tree.ending(".rs").map(|file| (file, file.text.lines().count())).filter(|(_, count)| *count > MOST_LINES);
    let text = |count| format!("{count} lines, more than {MOST_LINES}: move one of its things to a file of its own");
    long.map(|(file, count)| Complaint::new(&file.path, MOST_LINES + 1, text(count))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn one_line_too_many() {
        let (most, more) = ("\n".repeat(MOST_LINES), "\n".repeat(MOST_LINES + 1));
        let files = [("most.rs", most.as_str()), ("more.rs", &more), ("data.txt", &more)];
        assert_eq!(places(check, &files), ["more.rs:801"]);
    }
}
