//! Errors of the agent: all of them end at the host, so all of them are [`AgentError`]s: "while doing what: cause".

use guest_protocol::message::{AgentError, ErrorKind};
use rustix::io::Errno;

/// Result of everything in the agent.
pub type Result<T> = std::result::Result<T, AgentError>;

/// Longest error message for the host, in bytes ([`AgentError::message`]).
pub const MAX_MESSAGE: usize = 4 << 10;

/// Says what was being done when something failed.
pub trait Doing<T> {
    /// Puts "what: " before the cause.
    ///
    /// # Errors
    /// When `self` is one.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, Errno> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| failed(format!("{}: {}", what(), cause(e))))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| match Errno::from_io_error(&e) {
            Some(errno) => failed(format!("{}: {}", what(), cause(errno))),
            None => failed(format!("{}: {e}", what())),
        })
    }
}

impl<T> Doing<T> for Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| AgentError::new(e.kind, format!("{}: {}", what(), e.message)))
    }
}

/// An error without a special kind.
pub fn failed(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::Failed, message)
}

/// An error of a request that makes no sense.
pub fn invalid(message: impl Into<String>) -> AgentError {
    AgentError::new(ErrorKind::Invalid, message)
}

/// The text of a system error as engines look for it: `no such file or directory`.
pub fn cause(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        // "Is a directory" becomes lower case, "RPC struct is bad" does not.
        Some(first) if letters.as_str().starts_with(|c: char| c.is_lowercase() || c == ' ') => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// Cuts `text` to at most `limit` bytes, at a character.
pub fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_as_engines_expect() {
        assert_eq!(cause(Errno::NOENT), "no such file or directory");
        assert_eq!(cause(Errno::ACCESS), "permission denied");
        assert_eq!(cause(Errno::ISDIR), "is a directory");
        assert_eq!(cause(Errno::NOEXEC), "exec format error");
    }

    #[test]
    fn a_message_is_cut_at_a_character() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
        assert_eq!(cut("abc", 9), "abc");
    }
}
