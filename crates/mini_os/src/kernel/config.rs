//! Kernel configurations: our fragments, what became of them, and what a configuration can do.
//!
//! Kconfig drops an option silently when something it depends on is off. [`verify`] finds that.

use machine_spec::mini_os::Features;
use std::collections::{BTreeMap, BTreeSet};

/// A fragment with a line that is no option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// a line that is neither an option nor a comment
    #[error("{0}: line {1}: {2:?} is not an option (write CONFIG_NAME=y, =n, a number or \"text\")")]
    Line(String, usize, String),
    /// options that Kconfig refused
    #[error("the kernel's configuration did not accept: {} (check each name, and that what it depends on is set too)", .0.join(", "))]
    Dropped(Vec<String>),
}

/// Options that are wanted, and those among them that may be missing.
#[derive(Debug, Default, Clone)]
pub struct Fragment {
    options: BTreeMap<String, String>,
    may_drop: BTreeSet<String>,
}

impl Fragment {
    /// Adds the options of a text; a later value of an option replaces an earlier one.
    ///
    /// # Errors
    /// [`ConfigError::Line`], naming `source`.
    pub fn add(&mut self, source: &str, text: &str) -> Result<(), ConfigError> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(name) =
                line.strip_prefix("# may-drop: ").and_then(|rest| rest.split_whitespace().next())
            {
                self.may_drop.insert(name.to_string());
            } else if !line.is_empty() && !line.starts_with('#') {
                let bad = || ConfigError::Line(source.into(), number + 1, line.into());
                let (name, value) = option(line).ok_or_else(bad)?;
                self.options.insert(name.to_string(), value.to_string());
            }
        }
        Ok(())
    }

    /// The options as a file for Kconfig, sorted.
    pub fn text(&self) -> String {
        self.options.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// Checks that a finished configuration holds every option with its value.
    ///
    /// # Errors
    /// [`ConfigError::Dropped`], naming every option that did not take effect.
    pub fn verify(&self, finished: &str) -> Result<(), ConfigError> {
        let finished = parse(finished);
        let mut dropped = Vec::new();
        for (name, wanted) in self.options.iter().filter(|(name, _)| !self.may_drop.contains(*name)) {
            let found = finished.get(name.as_str()).copied().unwrap_or("n");
            if found != wanted {
                dropped.push(format!("{name}={wanted} (is {found})"));
            }
        }
        if dropped.is_empty() { Ok(()) } else { Err(ConfigError::Dropped(dropped)) }
    }
}

/// Splits `CONFIG_NAME=value` and checks both sides.
fn option(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let rest = name.strip_prefix("CONFIG_")?;
    let plain = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let text = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
    let word = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (plain && (text || word)).then_some((name, value))
}

/// The options that are set in a `.config`.
fn parse(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(|line| line.split_once('=')).collect()
}

/// What a kernel with this `.config` can do without modules.
pub fn features(text: &str) -> Features {
    let options = parse(text);
    let built_in = |names: &[&str]| names.iter().all(|name| options.get(name) == Some(&"y"));
    let erofs = built_in(&["CONFIG_BLOCK", "CONFIG_EROFS_FS"]);
    let pmem = built_in(&["CONFIG_VIRTIO_PMEM"]) || built_in(&["CONFIG_ACPI_NFIT", "CONFIG_BLK_DEV_PMEM"]);
    Features {
        virtio_mmio: built_in(&["CONFIG_VIRTIO_MMIO", "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"]),
        block_root: erofs && built_in(&["CONFIG_VIRTIO_BLK"]),
        dax_root: erofs && pmem && built_in(&["CONFIG_FS_DAX"]),
        clear: built_in(&["CONFIG_VIRTIO_PCI", "CONFIG_VIRTIO_VSOCKETS", "CONFIG_VIRTIO_FS"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::source::{Profile, fragment};

    #[test]
    fn later_values_win_and_drops_are_named() {
        let mut fragment = Fragment::default();
        fragment
            .add("a", "# text\nCONFIG_A=y\nCONFIG_B=\"x y\"\nCONFIG_N=n\n# may-drop: CONFIG_D old\n")
            .unwrap();
        fragment.add("b", "CONFIG_A=n\nCONFIG_C=16\nCONFIG_D=y").unwrap();
        assert_eq!(fragment.text(), "CONFIG_A=n\nCONFIG_B=\"x y\"\nCONFIG_C=16\nCONFIG_D=y\nCONFIG_N=n\n");
        assert_eq!(fragment.verify("CONFIG_B=\"x y\"\nCONFIG_C=16\n# CONFIG_N is not set\n"), Ok(()));
        let dropped = vec!["CONFIG_A=n (is y)".to_string(), "CONFIG_C=16 (is 17)".into()];
        let finished = "CONFIG_A=y\nCONFIG_B=\"x y\"\nCONFIG_C=17\n";
        assert_eq!(fragment.verify(finished), Err(ConfigError::Dropped(dropped)));
    }

    #[test]
    fn bad_lines_are_named() {
        for line in
            ["CONFIG_A", "A=y", "CONFIG_=y", "CONFIG_A=", "CONFIG_A=\"", "CONFIG_A B=y", "CONFIG_A=y\u{b}z"]
        {
            let error = Fragment::default().add("f", &format!("\n{line}")).unwrap_err();
            assert_eq!(error, ConfigError::Line("f".into(), 2, line.into()));
        }
    }

    #[test]
    fn our_fragments_are_well_formed_and_give_all_features() {
        for profile in [Profile::Core, Profile::Container, Profile::Devices, Profile::LabHost] {
            let text = fragment(profile, &[]).unwrap().text();
            let all = Features { virtio_mmio: true, block_root: true, dax_root: true, clear: true };
            assert_eq!(features(&text), all, "{profile:?}");
        }
    }

    #[test]
    fn modular_drivers_are_no_features() {
        let text =
            "CONFIG_BLOCK=y\nCONFIG_EROFS_FS=m\nCONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO_MMIO=m\nCONFIG_FS_DAX=y";
        assert_eq!(features(text), Features::default());
    }
}
