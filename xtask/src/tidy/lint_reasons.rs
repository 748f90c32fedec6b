//! A lint is switched off with `expect` and a reason, never with `allow`: what is no longer needed then shows.

use super::Complaint;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.ending(".rs") {
        for (number, line) in file.lines() {
            let attribute = line.trim_start();
            let Some(attribute) = attribute.strip_prefix("#[").or_else(|| attribute.strip_prefix("#![")) else { continue };
            if attribute.starts_with("allow(") {
                let text = "`allow` stays when it is no longer needed: write `expect(lint, reason = \"..\")`";
                complaints.push(Complaint::new(&file.path, number, text));
            }
            if attribute.starts_with("expect(") && !whole_attribute(file, number).contains("reason = \"") {
                complaints.push(Complaint::new(&file.path, number, "`expect` without a reason: add `reason = \"..\"`"));
            }
        }
    }
    complaints
}

/// The attribute that begins in this line, up to its closing bracket or ten lines.
fn whole_attribute(file: &crate::tree::SourceFile, first: usize) -> String {
    let mut text = String::new();
    for (_, line) in file.lines().skip(first - 1).take(10) {
        text.push_str(line);
        if line.trim_end().ends_with(")]") {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn allow_and_bare_expect() {
        let text = "#![expect(unsafe_code, reason = \"ioctl\")]\n#[allow(dead_code)]\n#[expect(dead_code)]\n#[expect(\n    x,\n    reason = \"y\"\n)]\n";
        assert_eq!(places(check, &[("a.rs", text)]), ["a.rs:2", "a.rs:3"]);
    }
}
