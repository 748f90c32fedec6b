//! Which crate may use which: data below mechanism below policy below doors.

use super::Complaint;
use crate::tree::Tree;

/// Every crate and the workspace crates it may use. A process boundary is no edge: `machine` starts `clear-vmm`, and
/// the tests start programs.
const ALLOWED: &[(&str, &[&str])] = &[
    ("machine_spec", &[]),
    ("guest_protocol", &[]),
    ("host_check", &[]),
    ("netlink", &[]),
    ("vmm", &["machine_spec"]),
    ("machine", &["machine_spec"]),
    ("agent", &["guest_protocol", "netlink"]),
    ("mini_os", &["machine_spec"]),
    ("sandbox", &["machine_spec", "guest_protocol", "host_check", "machine", "netlink"]),
    ("cor", &["sandbox", "host_check"]),
    ("shim", &["sandbox", "host_check"]),
    ("vm_tests", &[]),
    ("conformance", &[]),
    ("benches", &[]),
    ("xtask", &["host_check"]),
];

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (directory, manifest) in tree.manifests() {
        let name = directory.rsplit('/').next().unwrap_or(directory);
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else {
            let fix = "no row in the table of crate edges: decide what it may use and add it to xtask/src/tidy/crate_edges.rs";
            complaints.push(Complaint::new(&manifest.path, 1, fix));
            continue;
        };
        let table: toml::Table = match manifest.text.parse() {
            Ok(table) => table,
            Err(error) => {
                complaints.push(Complaint::new(&manifest.path, 1, format!("is no TOML: {}", error.message())));
                continue;
            }
        };
        for used in dependencies(&table) {
            if ALLOWED.iter().any(|(crate_name, _)| *crate_name == used) && !allowed.contains(&used.as_str()) {
                let line = manifest.lines().find(|(_, line)| line.trim_start().starts_with(&used)).map_or(1, |(n, _)| n);
                let text = format!("`{name}` must not use `{used}`: take the dependency out (DESIGN: edges allowed)");
                complaints.push(Complaint::new(&manifest.path, line, text));
            }
        }
    }
    complaints
}

/// Package names in all sections, those of `[target.*]` included; a renamed dependency counts by its package.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    let tables = std::iter::once(manifest).chain(targets.filter_map(toml::Value::as_table));
    let sections = tables.flat_map(|table| SECTIONS.iter().filter_map(|section| table.get(*section)?.as_table()));
    let package = |value: &toml::Value| Some(value.get("package")?.as_str()?.to_owned());
    sections.flatten().map(|(name, value)| package(value).unwrap_or_else(|| name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn allowed_edges() {
        let sandbox = "[package]\n[dependencies]\nmachine.workspace = true\nserde.workspace = true\n";
        assert!(places(check, &[("crates/sandbox/Cargo.toml", sandbox)]).is_empty());
    }

    #[test]
    fn forbidden_edges_in_each_section() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            let agent = format!("[package]\n[{section}]\nsandbox.workspace = true\n");
            assert_eq!(places(check, &[("crates/agent/Cargo.toml", &agent)]), ["crates/agent/Cargo.toml:3"], "{section}");
        }
        let renamed = "[dependencies]\nharmless = { package = \"vmm\", path = \"../vmm\" }\n";
        assert_eq!(places(check, &[("crates/machine/Cargo.toml", renamed)]).len(), 1);
        let tests = "[dependencies]\nsandbox.workspace = true\n";
        assert_eq!(places(check, &[("vm_tests/Cargo.toml", tests)]), ["vm_tests/Cargo.toml:2"]);
    }

    #[test]
    fn unknown_crates_and_damaged_manifests() {
        assert_eq!(places(check, &[("crates/surprise/Cargo.toml", "")]), ["crates/surprise/Cargo.toml:1"]);
        assert_eq!(places(check, &[("crates/agent/Cargo.toml", "[[[")]), ["crates/agent/Cargo.toml:1"]);
    }
}
