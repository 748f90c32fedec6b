//! House rules as a program. One rule per file; to add one: its file, and its name in the registry below.
//!
//! ```text
//!   crates/x/src/y.rs:12: pure-plan: `std::fs` in the plan: move the effect to sandbox/src/host
//! ```

use crate::tree::Tree;
use anyhow::{Result, bail};
use std::path::Path;

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    path: String,
    line: usize,
    /// What is wrong and the fix, one line.
    text: String,
}

impl Complaint {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }
}

/// Declares the modules and the table of rules.
macro_rules! registry {
    ($($rule:ident)*) => {
        $(mod $rule;)*
        const REGISTRY: &[(&str, fn(&Tree) -> Vec<Complaint>)] = &[$((stringify!($rule), $rule::check)),*];
    };
}

registry! {
    parity
    crate_edges names code_map pure_plan lint_reasons man_pages file_size unfinished white_space top_files versions
}

/// Checks every rule on the checkout at `root`.
///
/// # Errors
/// How many complaints there are; the complaints themselves go to standard output.
pub fn run(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let mut count = 0;
    for (name, check) in REGISTRY {
        for Complaint { path, line, text } in check(&tree) {
            println!("{path}:{line}: {}: {text}", name.replace('_', "-"));
            count += 1;
        }
    }
    if count > 0 {
        bail!("{count} complaints; each line above ends with its fix");
    }
    println!("tidy: {} files keep {} rules", tree.files.len(), REGISTRY.len());
    Ok(())
}

/// A tree for the rules' own tests, of paths and texts.
#[cfg(test)]
fn tree_of(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let tree = Tree::read(directory.path()).unwrap();
    (directory, tree)
}

/// What a rule says about files: `path:line` of each complaint.
#[cfg(test)]
fn places(check: fn(&Tree) -> Vec<Complaint>, files: &[(&str, &str)]) -> Vec<String> {
    let (_directory, tree) = tree_of(files);
    check(&tree).iter().map(|complaint| format!("{}:{}", complaint.path, complaint.line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_make_the_task_fail() {
        let (directory, _) = tree_of(&[("a.rs", "fn a() {} \n")]);
        assert!(run(directory.path()).unwrap_err().to_string().contains("complaints"));
    }
}
