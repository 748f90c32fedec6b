//! The text files of a checkout, in memory.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold no source, at the top or anywhere.
const LEFT_OUT: [&str; 5] = [".git", "target", "fuzz/target", "fuzz/corpus", "fuzz/artifacts"];

/// Larger files are data.
const LARGEST: u64 = 4 << 20;

/// One text file.
#[derive(Debug)]
pub struct SourceFile {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl SourceFile {
    /// Lines with their number, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.split('\n').enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// A checkout.
#[derive(Debug)]
pub struct Tree {
    /// Its top directory.
    pub root: PathBuf,
    /// All text files, by path.
    pub files: Vec<SourceFile>,
}

impl Tree {
    /// Reads all of it.
    ///
    /// # Errors
    /// A directory or file that cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(root, "", &mut files)?;
        files.sort_by(|a: &SourceFile, b| a.path.cmp(&b.path));
        Ok(Self { root: root.to_owned(), files })
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Files whose path ends so.
    pub fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a SourceFile> {
        self.files.iter().filter(move |file| file.path.ends_with(end))
    }

    /// Whether a file or directory is at `path`.
    pub fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Member crates: directory and manifest (`crates/*`, `vm_tests`, `xtask`, ...), not the workspace's own.
    pub fn manifests(&self) -> impl Iterator<Item = (&str, &SourceFile)> {
        self.ending("/Cargo.toml").filter_map(|file| {
            let directory = file.path.strip_suffix("/Cargo.toml")?;
            (directory != "fuzz").then_some((directory, file))
        })
    }
}

fn collect(root: &Path, below: &str, files: &mut Vec<SourceFile>) -> Result<()> {
    let directory = root.join(below);
    let entries = fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let kind = entry.file_type().with_context(|| format!("looking at {path}"))?;
        if kind.is_dir() {
            if !LEFT_OUT.contains(&path.as_str()) {
                collect(root, &path, files)?;
            }
        } else if kind.is_file() && entry.metadata()?.len() <= LARGEST {
            let bytes = fs::read(entry.path()).with_context(|| format!("reading {path}"))?;
            // What is no UTF-8 is no source.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(SourceFile { path, text });
            }
        }
    }
    Ok(())
}
