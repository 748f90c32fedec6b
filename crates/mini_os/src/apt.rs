//! Debian packages, by the machine's own apt configuration: which version there is, and its files.
//!
//! Nothing here runs a package's scripts, and only [`install`] changes the machine.

use crate::process::{self, ProcessError};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What helps when apt fails.
const FIX: &str = "check the network and the package sources of this machine, then try again";

/// Packages that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// apt does not know the package
    #[error(
        "apt knows no package {0:?} (add a package source that has it, for example Debian 12 with its security updates)"
    )]
    Unknown(String),
    /// a package that should name the real one does not
    #[error("package {0:?} depends on no package that begins with {1:?}")]
    NoDependency(String, &'static str),
    /// packages that are needed and may not be installed
    #[error("these packages are needed: {0} (run as root to have them installed, or: apt-get install {0})")]
    NotInstalled(String),
    /// a package file that could not be fetched, for example because the package lists are old
    #[error("downloading {0}: {1}")]
    Download(String, ProcessError),
    /// a program failed
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// a file operation failed
    #[error("reading {0}: {1}")]
    Io(PathBuf, std::io::Error),
}

/// A package as apt would install it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of the package file.
    pub sha256: String,
    /// Length of the package file in bytes.
    pub size: u64,
    /// The `Depends` field.
    depends: String,
}

impl Package {
    /// Looks a package up; when it is unknown, after fetching the package lists once.
    ///
    /// # Errors
    /// [`AptError::Unknown`], or apt's failure.
    pub fn find(name: &str, updating: impl FnOnce()) -> Result<Package, AptError> {
        if let Some(package) = show(name) {
            return Ok(package);
        }
        updating();
        update()?;
        show(name).ok_or_else(|| AptError::Unknown(name.into()))
    }

    /// The package that this one pulls in, by the beginning of its name.
    ///
    /// # Errors
    /// [`AptError::NoDependency`] or [`AptError::Unknown`].
    pub fn dependency(&self, prefix: &'static str) -> Result<Package, AptError> {
        let names = self.depends.split(',').filter_map(|part| part.split_whitespace().next());
        let name = names.into_iter().find(|name| name.starts_with(prefix));
        let name = name.ok_or_else(|| AptError::NoDependency(self.name.clone(), prefix))?;
        show(name).ok_or_else(|| AptError::Unknown(name.into()))
    }

    /// Fetches the package file into a directory; apt checks its hash.
    ///
    /// # Errors
    /// apt's failure.
    pub fn download(&self, to: &Path, each: &mut dyn FnMut(&str)) -> Result<PathBuf, AptError> {
        let mut apt = Command::new("apt-get");
        // apt's own download user cannot write to our directory.
        apt.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
        apt.arg(format!("{}={}", self.name, self.version)).current_dir(to);
        process::run(&mut apt, FIX, each).map_err(|error| AptError::Download(self.name.clone(), error))?;
        let files = deb_files(to)?;
        let prefix = format!("{}_", self.name);
        let found = files
            .into_iter()
            .find(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)));
        found.ok_or_else(|| AptError::Unknown(self.name.clone()))
    }
}

fn show(name: &str) -> Option<Package> {
    let mut apt = Command::new("apt-cache");
    apt.args(["show", "--no-all-versions", name]);
    let text = process::output(&mut apt, FIX).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<Package> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(Package {
        name: field("Package")?.into(),
        version: field("Version")?.into(),
        sha256: field("SHA256").unwrap_or_default().into(),
        size: field("Size").and_then(|size| size.parse().ok()).unwrap_or(0),
        depends: field("Depends").unwrap_or_default().into(),
    })
}

/// Fetches the package lists.
///
/// # Errors
/// apt's failure.
pub fn update() -> Result<(), AptError> {
    Ok(process::run(Command::new("apt-get").args(["-q", "update"]), FIX, &mut |_| {})?)
}

/// Installs those of the packages that are missing on this machine.
///
/// # Errors
/// [`AptError::NotInstalled`] when we are not root, or apt's failure.
pub fn install(packages: &[&str], installing: impl FnOnce(&str)) -> Result<(), AptError> {
    let missing: Vec<&str> =
        packages.iter().copied().filter(|name| installed_version(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(AptError::NotInstalled(missing.join(" ")));
    }
    installing(&missing.join(" "));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-q", "-y", "--no-install-recommends", "install"]).args(&missing);
        process::run(&mut apt, FIX, &mut |_| {})
    };
    // Package lists may be missing or too old.
    if apt().is_err() {
        update()?;
        apt()?;
    }
    Ok(())
}

/// Version of a package that is installed on this machine.
pub fn installed_version(name: &str) -> Option<String> {
    let mut query = Command::new("dpkg-query");
    let text = process::output(query.args(["-W", "-f=${db:Status-Status} ${Version}\n", name]), FIX).ok()?;
    text.trim().strip_prefix("installed ").map(str::to_string)
}

/// All packages (`name version`, sorted) that the named ones need on an empty system.
///
/// # Errors
/// apt's failure, for example because a package is unknown.
pub fn resolve(packages: &[String]) -> Result<Vec<String>, AptError> {
    let text = process::output(empty_system("-s").args(packages), FIX)?;
    let mut found: Vec<String> = text.lines().filter_map(installation).collect();
    found.sort();
    Ok(found)
}

/// `Inst libc6 (2.36-9 Debian:12 [amd64])` in a simulation: `libc6 2.36-9`.
fn installation(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("Inst ")?.split_whitespace();
    let name = words.next()?;
    let version = words.find_map(|word| word.strip_prefix('('))?;
    Some(format!("{name} {version}"))
}

/// Unpacks packages and everything they need into a tree. `work` is an empty directory.
///
/// # Errors
/// apt's or dpkg-deb's failure.
pub fn unpack_all(
    packages: &[String],
    work: &Path,
    tree: &Path,
    each: &mut dyn FnMut(&str),
) -> Result<(), AptError> {
    let partial = work.join("partial");
    std::fs::create_dir_all(&partial).map_err(|error| AptError::Io(partial.clone(), error))?;
    let mut apt = empty_system("-d");
    apt.arg("-o").arg(format!("Dir::Cache::archives={}/", work.display()));
    process::run(apt.args(["-o", "APT::Sandbox::User=root"]).args(packages), FIX, each)?;
    for file in deb_files(work)? {
        unpack(&file, tree)?;
    }
    Ok(())
}

/// Unpacks the files of one package.
///
/// # Errors
/// dpkg-deb's failure.
pub fn unpack(package: &Path, tree: &Path) -> Result<(), AptError> {
    let mut dpkg = Command::new("dpkg-deb");
    let fix = "the package file may be damaged, or the disk full";
    Ok(process::run(dpkg.arg("-x").arg(package).arg(tree), fix, &mut |_| {})?)
}

/// `apt-get install` as if nothing were installed.
fn empty_system(mode: &str) -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-q", "-y", mode, "--no-install-recommends", "-o", "Dir::State::status=/dev/null"]);
    apt.args(["-o", "Debug::NoLocking=1", "install"]);
    apt
}

/// Package files in a directory, sorted.
fn deb_files(directory: &Path) -> Result<Vec<PathBuf>, AptError> {
    let list = std::fs::read_dir(directory).map_err(|error| AptError::Io(directory.into(), error))?;
    let paths = list.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "deb")).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_fields_are_read() {
        let text = "Package: linux-image-6.12-amd64\nVersion: 6.12.1-1\nDepends: x, linux-image-6.12.1-amd64 (= 6.12.1-1)\n\
                    Description: Depends: no\nSize: 1476\nSHA256: 5b85\n";
        let package = parse(text).unwrap();
        assert_eq!(
            (package.version.as_str(), package.size, package.sha256.as_str()),
            ("6.12.1-1", 1476, "5b85")
        );
        assert_eq!(package.depends, "x, linux-image-6.12.1-amd64 (= 6.12.1-1)");
        assert_eq!(parse("N: nothing\n"), None);
    }

    #[test]
    fn simulated_installations_are_read() {
        let line = "Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64]) [x:amd64 ]";
        assert_eq!(installation(line).as_deref(), Some("libc6 2.36-9"));
        assert_eq!(installation("Inst a [1] (2 Debian:12 [all])").as_deref(), Some("a 2"));
        assert_eq!(installation("Conf libc6 (2.36-9 Debian)"), None);
    }
}
