//! What `check` found: one finding per requirement, and the worst of them.

use serde::Serialize;

/// How bad a finding is; the order is from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Pass,
    /// Containers run, but slower, larger or with something missing.
    Warn,
    /// No container can run, not even by emulation.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check, for example `huge-pages`.
    pub name: String,
    /// How bad it is.
    pub level: Level,
    /// What was found, one line.
    pub what: String,
    /// What that means for containers, one line.
    pub why: String,
    /// What to do about it; always there unless the level is [`Level::Pass`].
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub(crate) fn pass(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: String::new(), level: Level::Pass, what: what.into(), why: why.into(), fix: None }
    }

    /// Works, with a loss.
    pub(crate) fn warn(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, fix: Some(fix.into()), ..Self::pass(what, why) }
    }

    /// Does not work.
    pub(crate) fn fail(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Fail, fix: Some(fix.into()), ..Self::pass(what, why) }
    }
}

/// All findings, in the order of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst level among the findings.
    pub level: Level,
    /// One per check.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Takes findings and finds the worst.
    #[must_use]
    pub fn new(findings: Vec<Finding>) -> Self {
        let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Pass);
        Self { level, findings }
    }

    /// How many findings have this level.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_level_wins() {
        let report = Report::new(vec![
            Finding::warn("w", "", "f"),
            Finding::fail("f", "", "f"),
            Finding::pass("p", ""),
            Finding::warn("w", "", "f"),
        ]);
        assert_eq!((report.level, report.count(Level::Warn)), (Level::Fail, 2));
        assert_eq!(Report::new(Vec::new()).level, Level::Pass);
    }

    #[test]
    fn json_has_plain_words() {
        let json = serde_json::to_value(Report::new(vec![Finding::warn("slow", "why", "fix it")])).unwrap();
        assert_eq!(json["level"], "warn");
        assert_eq!(json["findings"][0]["fix"], "fix it");
    }
}
