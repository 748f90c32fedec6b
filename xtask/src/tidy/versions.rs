//! Every version, of ours and of dependencies, is recorded once, in the workspace's Cargo.toml.

use super::Complaint;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (_, manifest) in tree.manifests() {
        let mut section = "";
        for (number, line) in manifest.lines() {
            let line = line.trim();
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else { continue };
            let dependency = section.contains("dependencies");
            let own = section == "[package]" && ["version", "edition", "rust-version", "license"].contains(&key);
            if own && !line.contains("workspace") {
                let text = format!("own `{key}`: write `{key}.workspace = true`");
                complaints.push(Complaint::new(&manifest.path, number, text));
            }
            let pinned = value.starts_with('"') || value.contains("version") || value.contains("git ") || value.contains("path ");
            if dependency && !line.contains("workspace = true") && (pinned || key == "version") {
                let text = "version outside the workspace: record it in [workspace.dependencies] and write `workspace = true`";
                complaints.push(Complaint::new(&manifest.path, number, text));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn own_and_dependencies_versions() {
        let text = "[package]\nname = \"a\"\nversion = \"1.0.0\"\nedition.workspace = true\n[dependencies]\nserde = \"1\"\n\
                    libc = { version = \"0.2\" }\ntoml = { workspace = true, features = [\"x\"] }\n\
                    [dev-dependencies.x]\nversion = \"3\"\n[lints]\nworkspace = true\n";
        let lines = [3, 6, 7, 10].map(|line| format!("crates/a/Cargo.toml:{line}"));
        assert_eq!(places(check, &[("crates/a/Cargo.toml", text), ("fuzz/Cargo.toml", text), ("Cargo.toml", text)]), lines);
    }
}
