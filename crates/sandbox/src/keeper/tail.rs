//! The last bytes of something the guest can write without end: its console, and the VMM's messages.

use std::collections::VecDeque;

/// How much is kept, in bytes.
const KEPT: usize = 16 << 10;

/// A window on the end of a text.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    /// Adds bytes; the oldest fall out.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// The text, safe to print: no control characters but line feeds and tabs.
    pub fn text(&self) -> String {
        let (head, tail) = self.bytes.as_slices();
        let whole = [head, tail].concat();
        let clean = |c: char| if c == '\n' || c == '\t' { Some(c) } else { (!c.is_control()).then_some(c) };
        String::from_utf8_lossy(&whole).chars().filter_map(clean).collect()
    }

    /// The last line that says why a kernel or program gave up, or else the last line that says anything.
    pub fn last_words(&self) -> Option<String> {
        let text = self.text();
        let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty());
        let telling = lines().find(|l| l.contains("Kernel panic"));
        telling.or(lines().next_back()).map(|line| line.chars().take(300).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::default();
        for i in 0..10_000 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        tail.push(&[b'x'; 100_000][..5]);
        assert!(tail.bytes.len() <= KEPT);
        assert_eq!(tail.last_words().unwrap(), "xxxxx");
        tail.push(&vec![b'y'; 100_000]);
        assert_eq!(tail.bytes.len(), KEPT);
    }

    #[test]
    fn a_panic_is_found_and_escapes_are_removed() {
        let mut tail = Tail::default();
        tail.push(b"ok\n[ 1.0] Kernel panic - not syncing: \x1b[31mno init\r\n[ 1.1] Rebooting\n");
        assert_eq!(tail.last_words().unwrap(), "[ 1.0] Kernel panic - not syncing: [31mno init");
        assert_eq!(Tail::default().last_words(), None);
    }
}
