//! A note of unfinished work says what and why, and no code is left that only pretends.

use super::Complaint;
use crate::tree::Tree;

/// In two halves, so that this file does not complain of itself.
const NOTES: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
const STUBS: [&str; 2] = [concat!("todo", "!("), concat!("unimplemented", "!(")];

/// A note with fewer words says nothing.
const FEWEST_WORDS: usize = 4;

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let sources = [".rs", ".toml", ".sh", "Makefile"];
    for file in tree.files.iter().filter(|file| sources.iter().any(|end| file.path.ends_with(end)) || in_scripts(&file.path)) {
        for (number, line) in file.lines() {
            for note in NOTES {
                if line.split_once(note).is_some_and(|(_, text)| text.split_whitespace().count() < FEWEST_WORDS) {
                    complaints.push(Complaint::new(&file.path, number, format!("{note} without what and why: say both, or do it")));
                }
            }
            for stub in STUBS.iter().filter(|stub| line.contains(*stub)) {
                complaints.push(Complaint::new(&file.path, number, format!("`{stub}..)` is a stub: write it, or refuse with an error")));
            }
        }
    }
    complaints
}

fn in_scripts(path: &str) -> bool {
    path.starts_with("scripts/") || path.starts_with(".ci/")
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn notes_and_stubs() {
        let (todo, fixme) = (NOTES[0], NOTES[1]);
        let text = format!("// {todo}\n// {todo}: the kernel ignores this flag before 6.9\n// {fixme} later\nfn a() {{ {})}}\n", STUBS[0]);
        assert_eq!(places(check, &[("a.rs", &text), ("notes.md", &text)]), ["a.rs:1", "a.rs:3", "a.rs:4"]);
        assert_eq!(places(check, &[("scripts/a", &format!("# {todo}\n"))]), ["scripts/a:1"]);
    }
}
