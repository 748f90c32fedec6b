//! Known deviations of a runtime, each with its reason.

use crate::case::Case;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Lists of this suite, by the runtime's name.
const LISTS: [(&str, &str); 3] = [
    ("cor", include_str!("../expected/cor.toml")),
    ("crun", include_str!("../expected/crun.toml")),
    ("runc", include_str!("../expected/runc.toml")),
];

/// A list: `"id" = "reason"` under two headings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// What the runtime does otherwise.
    #[serde(default)]
    deviations: BTreeMap<String, String>,
    /// What a virtual machine rules out.
    #[serde(default)]
    ruled_out_by_a_machine: BTreeMap<String, String>,
}

impl Expected {
    /// The list of this suite for a runtime; empty for others.
    pub fn of(runtime: &str) -> Result<Self> {
        let Some((_, text)) = LISTS.iter().find(|(name, _)| *name == runtime) else {
            return Ok(Self::default());
        };
        toml::from_str(text).with_context(|| format!("reading the list of {runtime}"))
    }

    /// A list in a file.
    pub fn read(path: &Path) -> Result<Self> {
        let doing = || format!("reading {}", path.display());
        toml::from_str(&std::fs::read_to_string(path).with_context(doing)?).with_context(doing)
    }

    /// Fails when the list names a test that does not exist, or gives no reason.
    pub fn check(&self, cases: impl Iterator<Item = &'static Case>) -> Result<()> {
        let ids: Vec<_> = cases.map(|case| case.id).collect();
        for (id, reason) in self.deviations.iter().chain(&self.ruled_out_by_a_machine) {
            if !ids.contains(&id.as_str()) {
                bail!("there is no test `{id}`; see --list");
            }
            if reason.trim().is_empty() {
                bail!("`{id}` has no reason");
            }
        }
        Ok(())
    }

    /// Why a test is expected to fail, if it is.
    pub fn reason(&self, id: &str) -> Option<&str> {
        self.deviations.get(id).or_else(|| self.ruled_out_by_a_machine.get(id)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    #[test]
    fn lists_name_tests_and_give_reasons() {
        for (name, _) in LISTS {
            Expected::of(name)
                .unwrap()
                .check(cases::all())
                .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }

    #[test]
    fn a_list_with_an_unknown_test_is_refused() {
        let list: Expected = toml::from_str("[deviations]\n\"no.such\" = \"because\"\n").unwrap();
        assert!(list.check(cases::all()).unwrap_err().to_string().contains("no.such"));
    }

    #[test]
    fn a_machine_rules_out_fifteen_tests_at_most() {
        assert!(Expected::of("cor").unwrap().ruled_out_by_a_machine.len() <= 15);
    }
}
