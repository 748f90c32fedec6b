//! ARCHITECTURE.md names every crate, and every path it names exists: prose maps rot otherwise.

use super::Complaint;
use crate::tree::Tree;

const MAP: &str = "ARCHITECTURE.md";

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let Some(map) = tree.file(MAP) else {
        return vec![Complaint::new(MAP, 1, "does not exist: write the bird's view and the code map")];
    };
    let mut complaints = Vec::new();
    for (directory, _) in tree.manifests() {
        if !quoted(&map.text).any(|word| word.trim_end_matches('/') == directory) {
            complaints.push(Complaint::new(MAP, 1, format!("does not name `{directory}`: add it to the code map")));
        }
    }
    for (number, line) in map.lines() {
        for path in quoted(line).filter(|word| is_path(word) && !found(tree, word)) {
            complaints.push(Complaint::new(MAP, number, format!("`{path}` does not exist: correct or remove it")));
        }
    }
    complaints
}

/// Words between single back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A relative path: at least one slash inside or at the end, and only characters that our file names have. Commands,
/// types and absolute paths of a running system are something else.
fn is_path(word: &str) -> bool {
    let named = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    word.contains('/') && !word.starts_with('/') && !word.contains("//") && word.chars().all(named)
}

/// Paths are given from the top, or shorter as `crate/module`.
fn found(tree: &Tree, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let inside = format!("crates/{first}/src/{rest}");
    [path, &format!("crates/{path}"), &inside, &format!("{inside}.rs")].into_iter().any(|place| tree.exists(place))
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn each_crate_is_named_and_each_path_exists() {
        let map = "`crates/agent/` and `xtask`\n`agent/init` `sandbox/plan` `/dev/kvm` `cor run` `agent/src/gone.rs`\n";
        let files = [
            (MAP, map),
            ("crates/agent/Cargo.toml", ""),
            ("crates/agent/src/init.rs", ""),
            ("crates/sandbox/Cargo.toml", ""),
            ("crates/sandbox/src/plan/mod.rs", ""),
            ("xtask/Cargo.toml", ""),
        ];
        let (_directory, tree) = super::super::tree_of(&files);
        let texts: Vec<_> = check(&tree).into_iter().map(|complaint| (complaint.line, complaint.text)).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].1.contains("crates/sandbox") && texts[1].0 == 2 && texts[1].1.contains("gone.rs"));
    }

    #[test]
    fn no_map_at_all() {
        assert_eq!(places(check, &[]), ["ARCHITECTURE.md:1"]);
    }
}
