//! Transparent huge pages for machines' memory.

use super::Context;
use crate::report::Finding;

const SWITCH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "2 MiB pages make a machine's first touch of memory and its page tables cheaper";
    // The chosen value stands in brackets: `always [madvise] never`.
    let line = context.root.read(SWITCH).unwrap_or_default();
    let chosen = line.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
    match chosen {
        Some("always" | "madvise") => Finding::pass(format!("transparent huge pages: {}", chosen.unwrap_or("")), why),
        Some(other) => {
            Finding::warn(format!("transparent huge pages: {other}"), why, format!("echo madvise > {SWITCH}"))
        }
        None => Finding::warn(
            "the kernel has no transparent huge pages",
            why,
            "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE=y",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn by_the_chosen_value() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write(SWITCH, "always madvise [never]\n");
        assert!(on(&host, check).fix.unwrap().starts_with("echo madvise"));
        host.remove(SWITCH);
        assert!(on(&host, check).what.contains("no transparent huge pages"));
    }
}
