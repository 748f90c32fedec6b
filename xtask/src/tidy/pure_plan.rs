//! The plan does no I/O: it takes facts and gives data, so that golden tests hold it without root.

use super::Complaint;
use crate::tree::Tree;

const PLAN: &str = "crates/sandbox/src/plan";

/// What reaches the outside world. Constants and C types of libc do not, its functions do.
const EFFECTS: [&str; 9] = [
    "std::fs",
    "std::process",
    "std::net",
    "std::env",
    "std::os::unix::net",
    "std::time::SystemTime",
    "std::time::Instant",
    "rustix",
    "libc",
];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let of_plan = |path: &str| path.ends_with(".rs") && (path.starts_with(&format!("{PLAN}/")) || path == format!("{PLAN}.rs"));
    for file in tree.files.iter().filter(|file| of_plan(&file.path)) {
        // Unit tests, at the end of a file, may read golden files.
        let lines = file.lines().take_while(|(_, line)| *line != "mod tests {");
        for (number, line) in lines.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for effect in EFFECTS.iter().filter(|effect| mentions(line, effect)) {
                let text = format!("`{effect}` in the plan: take it as a fact, or move the effect to crates/sandbox/src/host");
                complaints.push(Complaint::new(&file.path, number, text));
            }
        }
    }
    complaints
}

/// Whether a path stands in the line, also inside `use std::{fs, ..}`.
fn mentions(line: &str, effect: &str) -> bool {
    if effect == "libc" {
        return line.split("libc::").skip(1).any(calls_libc);
    }
    if let Some((_, last)) = effect.rsplit_once("::") {
        let group = line.split_once("std::{").is_some_and(|(_, group)| {
            let names = group.split(['}', ';']).next().unwrap_or("");
            effect.matches("::").count() == 1 && names.split(',').any(|name| name.trim().split("::").next() == Some(last))
        });
        return group || whole(line, effect);
    }
    whole(line, &format!("{effect}::")) || line.contains(&format!("use {effect}"))
}

/// Whether what follows `libc::`, one name or several in braces, has a function among it.
fn calls_libc(rest: &str) -> bool {
    let names = rest.strip_prefix('{').map_or(rest, |group| group.split('}').next().unwrap_or(group));
    let count = if rest.starts_with('{') { usize::MAX } else { 1 };
    let data = |name: &str| name.starts_with(|c: char| c.is_ascii_uppercase()) || name.starts_with("c_") || name.ends_with("_t");
    let mut names = names.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty()).take(count);
    names.any(|name| !data(name))
}

/// Whether `word` stands in the line and does not go on as a longer name.
fn whole(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let next = line[at + word.len()..].chars().next();
        word.ends_with("::") || !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn effects_in_all_spellings() {
        let text = "use std::fs;\nuse std::{collections::BTreeMap, env};\n// std::fs is not for us\nlet a = rustix::fs::open();\nuse std::fmt;\nuse std::process::Command;\n";
        assert_eq!(
            places(check, &[("crates/sandbox/src/plan/rootfs.rs", text)]),
            [1, 2, 4, 6].map(|line| format!("crates/sandbox/src/plan/rootfs.rs:{line}"))
        );
    }

    #[test]
    fn libc_for_its_constants_only() {
        let text = "use libc::{MS_BIND, MS_REC};\nlet a = libc::CLONE_NEWNS as libc::c_int;\nlibc::mount(a);\nuse libc::{MS_BIND, open};\n";
        let path = "crates/sandbox/src/plan/mounts.rs";
        assert_eq!(places(check, &[(path, text)]), [3, 4].map(|line| format!("{path}:{line}")));
    }

    #[test]
    fn tests_and_other_folders_may() {
        let files = [
            ("crates/sandbox/src/plan/rootfs.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"),
            ("crates/sandbox/src/host/mounts.rs", "use std::fs;\n"),
            ("crates/sandbox/src/plan/names.rs", "let std_process = my::process();\n"),
        ];
        assert!(places(check, &files).is_empty());
    }
}
