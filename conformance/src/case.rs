//! What a test is, and how it ends.

use crate::lab::{Lab, Runtime};
use anyhow::{Error, Result};
use std::fmt;
use std::time::{Duration, Instant};

/// One sentence of the specification with its test.
#[derive(Debug)]
pub struct Case {
    /// Stable name, `area.what`; lists of deviations use it.
    pub id: &'static str,
    /// File and anchor of the specification, such as `runtime.md#create`.
    pub section: &'static str,
    /// The sentence, quoted or in short.
    pub sentence: &'static str,
    /// The test. It fails with what was expected and what came.
    pub check: fn(&Lab) -> Result<()>,
}

/// A table of [`Case`]s: `id => function, section, sentence;` each.
macro_rules! cases {
    ($($id:literal => $check:ident, $section:literal, $sentence:literal;)*) => {
        /// The tests of this file.
        pub const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            id: $id, section: $section, sentence: $sentence, check: $check,
        }),*];
    };
}
pub(crate) use cases;

/// Ends a test that this host or this runtime's feature set cannot answer.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The error of a test that is skipped for this reason.
pub fn skip(reason: impl Into<String>) -> Error {
    Skip(reason.into()).into()
}

/// How a test ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it passed.
    pub verdict: Verdict,
    /// How long it took, with its cleaning up.
    pub time: Duration,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The runtime does what the sentence says.
    Passed,
    /// It does not: what was expected, and what came.
    Failed(String),
    /// Not answered: why.
    Skipped(String),
}

impl Outcome {
    /// Runs a test, and cleans up after it.
    pub fn of(case: &Case, runtime: &Runtime) -> Self {
        let start = Instant::now();
        let result = Lab::new(runtime).and_then(|lab| {
            let result = (case.check)(&lab);
            let cleaned = lab.clean_up();
            result.and(cleaned)
        });
        let verdict = match result {
            Ok(()) => Verdict::Passed,
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(skip) => Verdict::Skipped(skip.to_string()),
                None => Verdict::Failed(format!("{error:#}")),
            },
        };
        Self { verdict, time: start.elapsed() }
    }
}

/// Fails a test unless both are equal.
pub fn same<T: PartialEq + fmt::Debug + ?Sized>(what: &str, expected: &T, came: &T) -> Result<()> {
    if expected == came {
        return Ok(());
    }
    anyhow::bail!("{what}: expected {expected:?}, came {came:?}")
}

/// Fails a test unless this holds.
pub fn holds(what: &str, holds: bool, came: impl fmt::Debug) -> Result<()> {
    if holds {
        return Ok(());
    }
    anyhow::bail!("expected {what}, came {came:?}")
}
