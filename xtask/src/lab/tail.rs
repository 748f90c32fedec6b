//! The last of what the kernel and QEMU say, for the error message when they fail.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How much is kept, in bytes.
const KEPT: usize = 16 << 10;

/// How many lines an error shows.
const SHOWN: usize = 40;

/// Bytes of which the first are forgotten; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Adds what was said.
    pub fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
    }

    /// The last lines that say something, indented, each after a line break.
    pub fn lines(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept.iter().copied().collect::<Vec<_>>()).into_owned();
        let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        let lines: Vec<_> = text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
        let first = lines.len().saturating_sub(SHOWN);
        lines[first..].iter().map(|line| format!("\n    {line}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_is_kept() {
        let tail = Tail::default();
        for number in 0..100_000 {
            tail.add(format!("line {number}\r\n\r\n").as_bytes());
        }
        let lines = tail.lines();
        assert_eq!(lines.lines().filter(|line| !line.is_empty()).count(), SHOWN);
        assert!(lines.ends_with("\n    line 99998\n    line 99999"), "{lines}");
        assert!(tail.0.lock().unwrap().len() <= KEPT);
    }
}
