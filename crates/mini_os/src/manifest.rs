//! What a user adds to a mini-OS: a TOML file.
//!
//! ```toml
//! [kernel]
//! source = "source"            # or "debian"
//! profile = "container"        # with "source"
//! options = ["CONFIG_CAN=y"]   # with "source"
//! modules = ["xfs"]            # with "debian": loaded at boot, besides ours
//!
//! [[files]]
//! source = "motd"              # relative to this file
//! target = "/etc/motd"
//! mode = "0644"                # default: as the source
//!
//! [packages]
//! debian = ["socat"]           # with everything they depend on; no package script is run
//! ```

use crate::kernel::source::Profile;
use clap::ValueEnum;
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// cannot be read
    #[error("reading {0}: {1}")]
    Io(PathBuf, std::io::Error),
    /// not TOML of the known shape
    #[error("{0}: {1}")]
    Syntax(PathBuf, String),
    /// a value that makes no sense
    #[error("{0}: {1} {2:?}: {3}")]
    Value(PathBuf, &'static str, String, &'static str),
}

/// Where a kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSource {
    /// Debian's packaged kernel and its modules: no compiler, boots on q35 only
    Debian,
    /// Compiled from Debian's source with our options: smaller, faster to boot, all board types
    Source,
}

/// A manifest as it was written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// Which kernel.
    pub kernel: KernelChoice,
    /// Files to add.
    pub files: Vec<AddedFile>,
    /// Packages to add.
    pub packages: Packages,
}

/// The `[kernel]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelChoice {
    /// Where it comes from.
    pub source: Option<KernelSource>,
    /// Which of our configurations.
    pub profile: Option<Profile>,
    /// Options that replace or extend it.
    pub options: Vec<String>,
    /// More modules for Debian's kernel.
    pub modules: Vec<String>,
}

/// One of `[[files]]`. After loading, `source` is absolute or relative to the working directory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddedFile {
    /// File to copy.
    pub source: PathBuf,
    /// Absolute path in the guest.
    pub target: PathBuf,
    /// Permissions, octal.
    mode: Option<String>,
    /// Permissions, from `mode` or from the source.
    #[serde(skip)]
    pub permissions: u32,
}

/// The `[packages]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Packages {
    /// Debian packages by name.
    pub debian: Vec<String>,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`], naming the file and what is wrong in it.
    pub fn load(path: &Path) -> Result<Manifest, ManifestError> {
        let text = fs::read_to_string(path).map_err(|error| ManifestError::Io(path.into(), error))?;
        let syntax = |error: toml::de::Error| {
            let line = 1 + error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            ManifestError::Syntax(
                path.into(),
                format!("line {line}: {}", error.message().replace('\n', "; ")),
            )
        };
        let mut manifest: Manifest = toml::from_str(&text).map_err(syntax)?;
        let base = path.parent().unwrap_or(Path::new(""));
        for file in &mut manifest.files {
            file.complete(path, base)?;
        }
        let value = |what, text: &str, why| ManifestError::Value(path.into(), what, text.into(), why);
        for name in &manifest.packages.debian {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.:".contains(c);
            if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
                return Err(value("package", name, "not the name of a Debian package"));
            }
        }
        for name in &manifest.kernel.modules {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                return Err(value("module", name, "not the name of a kernel module"));
            }
        }
        Ok(manifest)
    }
}

impl AddedFile {
    fn complete(&mut self, manifest: &Path, base: &Path) -> Result<(), ManifestError> {
        let target = self.target.to_string_lossy().into_owned();
        let value = |what, text: &str, why| ManifestError::Value(manifest.into(), what, text.into(), why);
        let mut parts = self.target.components();
        if parts.next() != Some(Component::RootDir) || parts.clone().next().is_none() {
            return Err(value("target", &target, "must be an absolute path of a file"));
        }
        if !parts.all(|part| matches!(part, Component::Normal(_))) || target.contains('\n') {
            return Err(value("target", &target, "must not contain `..` or a line break"));
        }
        if matches!(target.as_str(), "/init" | "/lib/modules/clear.order") {
            return Err(value("target", &target, "is made by clear-mini-os itself"));
        }
        self.source = base.join(&self.source);
        let metadata = fs::metadata(&self.source).map_err(|e| ManifestError::Io(self.source.clone(), e))?;
        if !metadata.is_file() {
            return Err(value("source", &self.source.to_string_lossy(), "is not a file"));
        }
        self.permissions = match &self.mode {
            None => metadata.permissions().mode() & 0o7777,
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => mode,
                _ => return Err(value("mode", text, "is not octal, for example \"0644\"")),
            },
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Manifest, ManifestError> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("motd"), "hello").unwrap();
        fs::set_permissions(directory.path().join("motd"), fs::Permissions::from_mode(0o750)).unwrap();
        let path = directory.path().join("mini.toml");
        fs::write(&path, text).unwrap();
        Manifest::load(&path)
    }

    #[test]
    fn whole_manifest_is_read() {
        let manifest = load(
            "[kernel]\nsource = 'source'\nprofile = 'core'\noptions = ['CONFIG_CAN=y']\n\
             [[files]]\nsource = 'motd'\ntarget = '/etc/motd'\nmode = '0644'\n\
             [[files]]\nsource = 'motd'\ntarget = '/etc/other'\n[packages]\ndebian = ['libstdc++6']\n",
        )
        .unwrap();
        assert_eq!(manifest.kernel.source, Some(KernelSource::Source));
        assert_eq!(manifest.kernel.profile, Some(Profile::Core));
        assert_eq!([manifest.files[0].permissions, manifest.files[1].permissions], [0o644, 0o750]);
        assert!(manifest.files[0].source.ends_with("motd") && manifest.files[0].source.is_absolute());
    }

    #[test]
    fn mistakes_are_named() {
        let file = |rest: &str| format!("[[files]]\nsource = 'motd'\n{rest}");
        for (text, expected) in [
            ("[kernel]\nsauce = 'debian'".into(), "line 2: unknown field `sauce`"),
            ("[kernel]\nsource = 'bsd'".into(), "bsd"),
            ("[kernel".into(), "line 1"),
            (file("target = 'etc/x'"), "absolute"),
            (file("target = '/'"), "absolute"),
            (file("target = '/etc/../x'"), ".."),
            (file("target = '/init'"), "clear-mini-os itself"),
            (file("target = '/x'\nmode = 'rw'"), "octal"),
            (file("target = '/x'\nmode = '17777'"), "octal"),
            ("[[files]]\nsource = 'gone'\ntarget = '/x'".into(), "gone"),
            ("[[files]]\nsource = '.'\ntarget = '/x'".into(), "not a file"),
            ("[packages]\ndebian = ['--yes']".into(), "--yes"),
            ("[kernel]\nmodules = ['../x']".into(), "../x"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(
                error.contains(expected)
                    && error.contains(if expected == "gone" { "gone" } else { "mini.toml" }),
                "{error}"
            );
        }
    }
}
