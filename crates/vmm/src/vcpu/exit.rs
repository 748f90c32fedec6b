//! Why a machine ended, as an exit code and, unless it ended as guests should, one line for people.

use std::process::ExitCode;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest has asked for a reset: how a guest without ACPI ends.
    Reset,
    /// The guest has switched itself off.
    PowerOff,
    /// The guest's kernel has panicked and then reset the machine.
    Panic,
    /// A triple fault: a crash early in boot, or a reboot with `reboot=t`.
    TripleFault,
    /// KVM could not go on.
    Internal(String),
    /// We were asked to end.
    Signal(i32),
    /// We were told to by the control socket.
    Shutdown,
}

impl ExitReason {
    /// The program's exit code. 1 and 2 mean that nothing was started (an error, wrong usage).
    pub fn code(&self) -> u8 {
        match self {
            ExitReason::Reset => 0,
            ExitReason::PowerOff => 3,
            ExitReason::Shutdown => 4,
            ExitReason::Panic => 10,
            ExitReason::TripleFault => 11,
            ExitReason::Internal(_) => 12,
            ExitReason::Signal(number) => 128u8.saturating_add(*number as u8),
        }
    }

    /// What to say about it, if anything.
    pub fn message(&self) -> Option<String> {
        match self {
            ExitReason::Reset | ExitReason::PowerOff | ExitReason::Shutdown => None,
            ExitReason::Panic => Some("the guest's kernel panicked; its console (`--console`) says why".to_string()),
            ExitReason::TripleFault => Some(
                "the guest had a triple fault: its kernel crashed before it could tell, or it was booted with reboot=t".to_string(),
            ),
            ExitReason::Internal(what) => Some(format!("KVM cannot run the guest any more: {what}")),
            ExitReason::Signal(number) => Some(format!("ended by signal {number}")),
        }
    }
}

impl From<&ExitReason> for ExitCode {
    fn from(reason: &ExitReason) -> Self {
        ExitCode::from(reason.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_code() {
        let reasons = [
            ExitReason::Reset,
            ExitReason::PowerOff,
            ExitReason::Panic,
            ExitReason::TripleFault,
            ExitReason::Internal(String::new()),
            ExitReason::Signal(15),
            ExitReason::Shutdown,
        ];
        let codes: std::collections::BTreeSet<u8> = reasons.iter().map(ExitReason::code).collect();
        assert_eq!(codes.len(), reasons.len());
        assert!(!codes.contains(&1) && !codes.contains(&2));
    }
}
