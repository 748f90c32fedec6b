//! `cargo xtask man`: writes the man pages from what the programs say with `--help`, or checks that it was done.
//!
//! ```text
//!   crates/*/examples/man.rs ──► target/man/*.8 ──► docs/man/*.8      with --check: compared only
//! ```

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the pages are kept.
const PAGES: &str = "docs/man";

/// A crate with this file has pages; it writes them to the directory that it is given.
const GENERATOR: &str = "examples/man.rs";

/// Whether to write.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write nothing; fail when a page is not as the programs say
    #[arg(long)]
    check: bool,
}

/// Pages by file name.
type Pages = BTreeMap<String, String>;

/// Writes or checks the pages.
///
/// # Errors
/// A generator that failed, a file that could not be used, and with `--check` every page that differs.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let fresh = root.join("target/man");
    generate(root, &fresh)?;
    let (wanted, kept) = (read(&fresh)?, read(&root.join(PAGES))?);
    if wanted.is_empty() {
        bail!("no crate has pages: {GENERATOR} is missing everywhere in {}", root.join("crates").display());
    }
    let different = differences(&wanted, &kept);
    if arguments.check && !different.is_empty() {
        bail!("{}; write them anew: cargo xtask man", different.join(", "));
    }
    if !arguments.check {
        put(&root.join(PAGES), &wanted, &kept)?;
    }
    let verb = if arguments.check { "as the programs say" } else { "written" };
    println!("man: {} pages in {PAGES} are {verb}", wanted.len());
    Ok(())
}

/// The step of `cargo xtask ci`.
///
/// # Errors
/// As [`run`].
pub fn check(root: &Path) -> Result<()> {
    run(root, &Arguments { check: true })
}

/// Lets every generator write into an empty directory.
fn generate(root: &Path, fresh: &Path) -> Result<()> {
    if fresh.exists() {
        fs::remove_dir_all(fresh).with_context(|| format!("emptying {}", fresh.display()))?;
    }
    fs::create_dir_all(fresh).with_context(|| format!("creating {}", fresh.display()))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for package in packages(root)? {
        let mut command = Command::new(&cargo);
        command
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                &package,
                "--example",
                &format!("{package}_man"),
                "--",
            ])
            .arg(fresh);
        let status =
            command.current_dir(root).status().with_context(|| format!("starting cargo for {package}"))?;
        if !status.success() {
            bail!("generating the pages of {package}: {status}");
        }
    }
    Ok(())
}

/// Crates that have a generator. Their packages are named as their directories.
fn packages(root: &Path) -> Result<Vec<String>> {
    let crates = root.join("crates");
    let entries = fs::read_dir(&crates).with_context(|| format!("listing {}", crates.display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().join(GENERATOR).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// The pages in a directory; a missing one has none.
fn read(directory: &Path) -> Result<Pages> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(Pages::new()) };
    let paths =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "8"));
    paths.map(page).collect()
}

/// Name and text of a page. The generator leaves blanks at the ends of lines, which no page needs.
fn page(path: PathBuf) -> Result<(String, String)> {
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, lines.join("\n") + "\n"))
}

/// What is wrong with the pages that are kept, a few words each.
fn differences(wanted: &Pages, kept: &Pages) -> Vec<String> {
    let missing_or_old = wanted.iter().filter_map(|(name, text)| match kept.get(name) {
        None => Some(format!("{PAGES}/{name} is missing")),
        Some(old) => (old != text).then(|| format!("{PAGES}/{name} is old")),
    });
    let left = kept.keys().filter(|name| !wanted.contains_key(*name));
    missing_or_old.chain(left.map(|name| format!("{PAGES}/{name} belongs to nothing"))).collect()
}

/// Makes the directory hold exactly the wanted pages.
fn put(directory: &Path, wanted: &Pages, kept: &Pages) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    for name in kept.keys().filter(|name| !wanted.contains_key(*name)) {
        fs::remove_file(directory.join(name)).with_context(|| format!("removing {PAGES}/{name}"))?;
    }
    for (name, text) in wanted {
        fs::write(directory.join(name), text).with_context(|| format!("writing {PAGES}/{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(list: &[(&str, &str)]) -> Pages {
        list.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let (wanted, kept) = (
            pages(&[("a.8", "1"), ("b.8", "2"), ("c.8", "3")]),
            pages(&[("b.8", "2"), ("c.8", "x"), ("d.8", "")]),
        );
        assert_eq!(
            differences(&wanted, &kept),
            ["docs/man/a.8 is missing", "docs/man/c.8 is old", "docs/man/d.8 belongs to nothing"]
        );
    }

    #[test]
    fn after_writing_nothing_differs() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(PAGES);
        let wanted = pages(&[("a.8", "1\n"), ("b.8", "2\n")]);
        put(&directory, &wanted, &Pages::new()).unwrap();
        fs::write(directory.join("old.8"), "").unwrap();
        fs::write(directory.join("notes.md"), "").unwrap();
        let kept = read(&directory).unwrap();
        put(&directory, &wanted, &kept).unwrap();
        assert!(differences(&wanted, &read(&directory).unwrap()).is_empty());
        assert!(directory.join("notes.md").exists());
    }

    #[test]
    fn crates_with_a_generator_are_found() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("crates/a/examples")).unwrap();
        fs::create_dir_all(root.path().join("crates/b")).unwrap();
        assert!(packages(root.path()).unwrap().is_empty());
        fs::write(root.path().join("crates/a").join(GENERATOR), "").unwrap();
        assert_eq!(packages(root.path()).unwrap(), ["a"]);
    }
}
