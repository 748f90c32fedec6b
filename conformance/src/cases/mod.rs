//! The tests: one file per part of the specification, one function per sentence.

mod config;
mod devices;
mod features;
mod hook_failures;
mod hooks;
mod identity;
mod lifecycle;
mod limits;
mod mounts;
mod namespaces;
mod operations;
mod process;
mod propagation;
mod protection;
mod resources;
mod root;
mod seccomp;
mod state;
mod terminal;

use crate::case::Case;

/// All tests, in the order of the specification.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let files = [
        state::CASES,
        lifecycle::CASES,
        operations::CASES,
        config::CASES,
        root::CASES,
        mounts::CASES,
        process::CASES,
        identity::CASES,
        limits::CASES,
        terminal::CASES,
        namespaces::CASES,
        devices::CASES,
        resources::CASES,
        seccomp::CASES,
        protection::CASES,
        propagation::CASES,
        hooks::CASES,
        hook_failures::CASES,
        features::CASES,
    ];
    files.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_sections_name_a_file() {
        let mut ids = BTreeSet::new();
        for case in all() {
            assert!(ids.insert(case.id), "{} twice", case.id);
            assert!(case.section.contains(".md#"), "{}", case.section);
            assert!(
                case.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c)),
                "{}",
                case.id
            );
        }
    }
}
