//! Text from outside in messages: always one line, never a terminal's control sequence.

/// `text` with control characters written as escapes.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(super::one_line("a\n\u{1b}[31mé"), "a\\n\\u{1b}[31mé");
    }
}
