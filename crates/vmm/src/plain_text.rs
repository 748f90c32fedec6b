//! Words of others in messages of ours: a name in a file or a request may hold line breaks and what terminals act on.

use std::fmt::Display;

/// `text` as one line of at most `most` characters, its control characters escaped.
pub fn plain(text: impl Display, most: usize) -> String {
    let text = text.to_string();
    let escaped = text.chars().flat_map(|c| {
        let (plain, escape) = if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
        plain.into_iter().chain(escape.into_iter().flatten())
    });
    escaped.take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn control_characters_are_escaped_and_the_rest_stays() {
        assert_eq!(plain("a\nb\u{1b}[2J\u{7f} ü \"q\"", 99), "a\\nb\\u{1b}[2J\\u{7f} ü \"q\"");
        assert_eq!(plain("\u{85}abc", 8), "\\u{85}ab");
    }
}
