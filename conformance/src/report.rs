//! What the suite prints.

use crate::case::{Case, Outcome, Verdict};
use serde_json::json;

/// Counts, and the form of the output.
#[derive(Debug)]
pub struct Report {
    json: bool,
    passed: usize,
    skipped: usize,
    expected: usize,
    failed: Vec<&'static str>,
    surprises: Vec<&'static str>,
}

impl Report {
    /// An empty one.
    pub fn new(json: bool) -> Self {
        Self { json, passed: 0, skipped: 0, expected: 0, failed: Vec::new(), surprises: Vec::new() }
    }

    /// Shows a test that is not run.
    pub fn list(&self, case: &Case) {
        if self.json {
            println!("{}", json!({"id": case.id, "section": case.section, "sentence": case.sentence}));
        } else {
            println!("{:<40} {}: {}", case.id, case.section, case.sentence);
        }
    }

    /// Counts and shows the end of a test; `reason` is why it is expected to fail.
    pub fn add(&mut self, case: &'static Case, outcome: Outcome, reason: Option<&str>) {
        let (result, detail) = match (&outcome.verdict, reason) {
            (Verdict::Passed, None) => {
                self.passed += 1;
                ("ok", String::new())
            }
            (Verdict::Passed, Some(reason)) => {
                self.passed += 1;
                self.surprises.push(case.id);
                ("ok, though expected to fail", reason.to_owned())
            }
            (Verdict::Failed(error), Some(reason)) => {
                self.expected += 1;
                ("failed as expected", format!("{reason} [{error}]"))
            }
            (Verdict::Failed(error), None) => {
                self.failed.push(case.id);
                ("FAILED", format!("{error} [{}: {}]", case.section, case.sentence))
            }
            (Verdict::Skipped(reason), _) => {
                self.skipped += 1;
                ("skipped", reason.clone())
            }
        };
        let milliseconds = outcome.time.as_millis();
        if self.json {
            let object = json!({"id": case.id, "result": result, "detail": detail, "milliseconds": milliseconds,
                "section": case.section, "sentence": case.sentence});
            println!("{object}");
        } else {
            let colon = if detail.is_empty() { "" } else { ": " };
            println!("{:<40} {milliseconds:>6} ms  {result}{colon}{detail}", case.id);
        }
    }

    /// Shows the summary; whether every test that failed was expected to.
    pub fn end(self) -> bool {
        let Self { passed, skipped, expected, failed, surprises, .. } = &self;
        if self.json {
            let object = json!({"passed": passed, "skipped": skipped, "failed_as_expected": expected,
                "failed": failed, "passed_though_expected_to_fail": surprises});
            println!("{object}");
        } else {
            println!(
                "\n{passed} passed, {expected} failed as expected, {skipped} skipped, {} failed",
                failed.len()
            );
            if !failed.is_empty() {
                println!("failed: {}", failed.join(" "));
            }
            if !surprises.is_empty() {
                println!("passed, though expected to fail (take them off the list): {}", surprises.join(" "));
            }
        }
        failed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    static CASE: Case = Case { id: "a.b", section: "s", sentence: "t", check: |_| Ok(()) };

    fn ends_well(verdict: Verdict, reason: Option<&str>) -> bool {
        let mut report = Report::new(true);
        report.add(&CASE, Outcome { verdict, time: Duration::ZERO }, reason);
        report.end()
    }

    #[test]
    fn only_a_failure_that_is_not_expected_fails_the_run() {
        assert!(ends_well(Verdict::Passed, None));
        assert!(ends_well(Verdict::Passed, Some("why")));
        assert!(ends_well(Verdict::Failed("e".into()), Some("why")));
        assert!(ends_well(Verdict::Skipped("s".into()), None));
        assert!(!ends_well(Verdict::Failed("e".into()), None));
    }
}
