//! Why there is no plan: what, why and the fix, on one line.

use crate::bundle::text::one_line;

/// A container for which there can be no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The configuration contradicts the specification.
    #[error("config.json: {path}: {problem}")]
    Invalid {
        /// JSON path.
        path: String,
        /// What is wrong with the value, and what would be right.
        problem: String,
    },
    /// The configuration asks for what a virtual machine cannot give.
    #[error("config.json: {path}: {why}; {fix}")]
    Refused {
        /// JSON path.
        path: String,
        /// What was asked for and why it cannot be.
        why: String,
        /// What to do instead.
        fix: String,
    },
    /// This host, or how it is configured, cannot run the container.
    #[error("{what}: {why}; {fix}")]
    Host {
        /// What was wanted.
        what: String,
        /// Why it cannot be.
        why: String,
        /// What to do.
        fix: String,
    },
    /// The machine that was planned cannot be: the sum of requests is at fault.
    #[error("planning the machine: {0}")]
    Machine(#[from] machine_spec::SpecError),
}

impl PlanError {
    pub(super) fn invalid(path: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        PlanError::Invalid { path: one_line(path.as_ref()), problem: one_line(problem.as_ref()) }
    }

    pub(super) fn refused(path: impl AsRef<str>, why: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        PlanError::Refused {
            path: one_line(path.as_ref()),
            why: one_line(why.as_ref()),
            fix: one_line(fix.as_ref()),
        }
    }

    pub(super) fn host(what: impl AsRef<str>, why: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        PlanError::Host {
            what: one_line(what.as_ref()),
            why: one_line(why.as_ref()),
            fix: one_line(fix.as_ref()),
        }
    }
}
