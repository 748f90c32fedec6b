//! Every line of `docs/parity.md` names a test that exists.

use super::Complaint;
use crate::tree::Tree;

const PAGE: &str = "docs/parity.md";

pub fn check(tree: &Tree) -> Vec<Complaint> {
    let Some(page) = tree.file(PAGE).map(|file| file.text.as_str()) else { return Vec::new() };
    let rows = page.lines().enumerate().filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| behaviour"));
    let complaint = |(index, line): (usize, &str)| {
        let name = line.rsplit('`').nth(1).unwrap_or_default();
        let fix = || Complaint::new(PAGE, index + 1, format!("there is no test {name:?}: name one that shows this line"));
        let found = line.trim_end().ends_with("` |") && exists(tree, name);
        (!found).then(fix)
    };
    rows.filter_map(complaint).collect()
}

/// `file::test` of the end-to-end tests, `engines::file::test`, `sriov::file::test`, or `conformance::set`.
fn exists(tree: &Tree, name: &str) -> bool {
    let has = |path: String, text: String| tree.file(&path).is_some_and(|file| file.text.contains(&text));
    match name.split("::").collect::<Vec<_>>()[..] {
        ["conformance", set] => has(format!("conformance/src/cases/{set}.rs"), "fn ".into()),
        ["engines", file, test] => ["users/", ""].into_iter().any(|directory| {
            has(format!("vm_tests/tests/engines/{directory}{file}.rs"), format!("fn {test}(engine: &Engine)"))
                || has(format!("vm_tests/tests/engines/{directory}{file}.rs"), format!("fn {test}(_: &Engine)"))
        }),
        ["sriov", file, test] => has(format!("vm_tests/tests/sriov/{file}.rs"), format!("fn {test}()")),
        [file, test] => has(format!("vm_tests/tests/end_to_end/{file}.rs"), format!("fn {test}()")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree_of;

    #[test]
    fn a_line_without_its_test_is_found() {
        let page = "| behaviour | `cor` | test |\n|---|---|---|\n| a | same | `run::is_there` |\n| b | same | `run::is_not` |\n| c | same | |\n| d | same | `sriov::a::is_there` |\n";
        let test = "#[test]\nfn is_there() {}\n";
        let (_directory, tree) = tree_of(&[
            (PAGE, page),
            ("vm_tests/tests/end_to_end/run.rs", test),
            ("vm_tests/tests/sriov/a.rs", test),
        ]);
        let lines: Vec<_> = check(&tree).iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [4, 5]);
    }
}
