//! Every command of `cor` and every program has its man page, and no page is left of a command that is gone.

use super::Complaint;
use crate::tree::Tree;

const COMMANDS: &str = "crates/cor/src/commands/";

/// Where the commands are listed; one with the attribute below is not for people.
const LIST: &str = "crates/cor/src/commands/mod.rs";
const HIDDEN: &str = "#[command(hide = true)]";
const PAGES: &str = "docs/man/";

/// Pages of programs: name, and the crate without which it need not be there.
const PROGRAMS: [(&str, &str); 3] =
    [("cor.8", "crates/cor"), ("clear-mini-os.8", "crates/mini_os"), ("clear-vmm.8", "crates/vmm")];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let commands = || tree.files.iter().filter_map(|file| Some((file, command_name(&file.path)?)));
    let hidden = hidden_commands(tree);
    for (file, name) in commands().filter(|(_, name)| !hidden.contains(name)) {
        let page = format!("{PAGES}cor-{name}.8");
        if tree.file(&page).is_none() {
            complaints.push(Complaint::new(&file.path, 1, format!("no man page: add {page}")));
        }
    }
    for (page, crate_directory) in PROGRAMS {
        if tree.exists(crate_directory) && tree.file(&format!("{PAGES}{page}")).is_none() {
            complaints.push(Complaint::new(crate_directory, 1, format!("no man page: add {PAGES}{page}")));
        }
    }
    for file in &tree.files {
        let Some(name) = file.path.strip_prefix("docs/man/cor-").and_then(|rest| rest.strip_suffix(".8")) else { continue };
        if !commands().any(|(_, command)| command == name) {
            complaints.push(Complaint::new(&file.path, 1, format!("there is no command `{name}`: remove the page")));
        }
    }
    complaints
}

/// Names of commands that only other programs call: `#[command(hide = true)]`, then `Keeper = keeper,`.
fn hidden_commands(tree: &Tree) -> Vec<String> {
    let Some(list) = tree.file(LIST) else { return Vec::new() };
    let pairs = list.text.lines().zip(list.text.lines().skip(1));
    let after = pairs.filter(|(line, _)| line.trim() == HIDDEN).map(|(_, next)| next);
    let modules = after.filter_map(|line| Some(line.trim().strip_suffix(',')?.split_once(" = ")?.1));
    modules.map(|module| module.trim_end_matches('_').replace('_', "-")).collect()
}

/// `crates/cor/src/commands/kill.rs` -> `kill`; files in folders below belong to the command of the folder.
fn command_name(path: &str) -> Option<String> {
    let rest = path.strip_prefix(COMMANDS)?;
    let name = rest.strip_suffix("/mod.rs").or_else(|| rest.strip_suffix(".rs"))?;
    // A raw or trailing underscore keeps clear of Rust's own words.
    let name = name.trim_end_matches('_').replace('_', "-");
    (!name.contains('/') && name != "mod").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn missing_and_left_over_pages() {
        let files = [
            ("crates/cor/src/commands/mod.rs", "    Kill = kill,\n    #[command(hide = true)]\n    Keeper = keeper,\n"),
            ("crates/cor/src/commands/keeper.rs", ""),
            ("crates/cor/src/commands/kill.rs", ""),
            ("crates/cor/src/commands/try_.rs", ""),
            ("crates/cor/src/commands/events/mod.rs", ""),
            ("crates/cor/src/commands/events/stats.rs", ""),
            ("docs/man/cor-try.8", ""),
            ("docs/man/cor-gone.8", ""),
            ("docs/man/cor.8", ""),
            ("crates/mini_os/Cargo.toml", ""),
        ];
        assert_eq!(
            places(check, &files),
            [
                "crates/cor/src/commands/events/mod.rs:1",
                "crates/cor/src/commands/kill.rs:1",
                "crates/mini_os:1",
                "docs/man/cor-gone.8:1"
            ]
        );
    }
}
