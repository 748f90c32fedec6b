//! How containers are run unless they say otherwise: the configuration file, and what one container may override.
//!
//! ```text
//!   built-in defaults ─► /etc/clear-containers/configuration.toml ─► `vm` section of config.json ─► annotations
//!         (each value remembers where it came from: `cor config --show`)
//! ```
//!
//! The documented file with every key is `configuration.toml` beside this crate's manifest ([`DEFAULT_FILE`]).

mod annotations;
mod mini_os;
mod network;
mod show;
mod vm_section;

pub use annotations::PREFIX as ANNOTATION_PREFIX;
pub use network::{Network, NetworkModel, Passthrough};

use crate::bundle::{Bundle, text::one_line};
use crate::host::network::MAX_DEVICES;
use machine_spec::MAX_QUEUES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the configuration file is looked for when none is named. It may be missing.
pub const PATH: &str = "/etc/clear-containers/configuration.toml";

/// The documented default file. Parsed, it equals [`Configuration::default`].
pub const DEFAULT_FILE: &str = include_str!("../../configuration.toml");

/// Longest configuration file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// Everything that can be configured. Field names are those of the file; it documents them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    /// `[machine]`
    pub machine: Machine,
    /// `[mini_os]`
    pub mini_os: MiniOsChoice,
    /// `[network]`
    pub network: Network,
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[security]`
    pub security: Security,
    /// What the container itself asked for; never in the file.
    #[serde(skip)]
    pub container: Container,
    /// Where values come from that are not built in, by `section.key`.
    #[serde(skip)]
    pub origins: BTreeMap<String, Origin>,
}

/// `[machine]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "configuration.toml documents every key, and a test checks that it does")]
pub struct Machine {
    pub backend: Backend,
    pub accelerator: AcceleratorChoice,
    pub chassis: ChassisChoice,
    pub root: RootChoice,
    pub default_vcpus: u32,
    pub max_vcpus: u32,
    pub default_memory_mib: u64,
    pub memory_overhead_mib: u64,
    pub vmm_overhead_mib: u64,
    pub qemu: PathBuf,
    pub clear_vmm: PathBuf,
    pub boot_timeout_s: u32,
    pub console: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Machine {
            backend: Backend::Auto,
            accelerator: AcceleratorChoice::Auto,
            chassis: ChassisChoice::Auto,
            root: RootChoice::Auto,
            default_vcpus: 1,
            max_vcpus: 0,
            default_memory_mib: 1024,
            memory_overhead_mib: 128,
            vmm_overhead_mib: 256,
            qemu: PathBuf::new(),
            clear_vmm: PathBuf::new(),
            boot_timeout_s: 30,
            console: true,
        }
    }
}

/// Which program runs machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configuration.toml documents every value")]
pub enum Backend {
    #[default]
    Auto,
    ClearVmm,
    Qemu,
}

/// How guest instructions are to be executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configuration.toml documents every value")]
pub enum AcceleratorChoice {
    #[default]
    Auto,
    Kvm,
    Emulation,
}

/// Which board is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configuration.toml documents every value")]
pub enum ChassisChoice {
    #[default]
    Auto,
    Microvm,
    Q35,
}

/// How the guest's kernel gets its root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configuration.toml documents every value")]
pub enum RootChoice {
    #[default]
    Auto,
    Pmem,
    Disk,
    Initramfs,
}

/// `[mini_os]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "configuration.toml documents every key, and a test checks that it does")]
pub struct MiniOsChoice {
    pub name: String,
    pub kernel: PathBuf,
    pub kernel_features: Vec<KernelFeature>,
    pub initramfs: PathBuf,
    pub image: PathBuf,
    pub kernel_sha256: String,
    pub image_sha256: String,
}

impl Default for MiniOsChoice {
    fn default() -> Self {
        MiniOsChoice {
            name: machine_spec::mini_os::DEFAULT_NAME.into(),
            kernel: PathBuf::new(),
            kernel_features: Vec::new(),
            initramfs: PathBuf::new(),
            image: PathBuf::new(),
            kernel_sha256: String::new(),
            image_sha256: String::new(),
        }
    }
}

/// What a kernel named by path can do; see [`machine_spec::mini_os::Features`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields of machine_spec::mini_os::Features")]
pub enum KernelFeature {
    VirtioMmio,
    BlockRoot,
    DaxRoot,
    Clear,
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "configuration.toml documents every key, and a test checks that it does")]
pub struct Runtime {
    pub root: PathBuf,
    pub log_level: LogLevel,
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime { root: "/run/cor".into(), log_level: LogLevel::Info }
    }
}

/// Least severe message that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the usual levels")]
pub enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
}

/// `[security]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "configuration.toml documents every key, and a test checks that it does")]
pub struct Security {
    pub allowed_annotations: Vec<String>,
    pub guest_seccomp: bool,
}

impl Default for Security {
    fn default() -> Self {
        Security { allowed_annotations: annotations::allowed_by_default(), guest_seccomp: true }
    }
}

/// What one container asks for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Number of vCPUs, whatever its CPU limit is.
    pub vcpus: Option<u32>,
    /// The machine's memory in MiB, whatever its memory limit is.
    pub memory_mib: Option<u64>,
    /// Kernel parameters, after ours.
    pub kernel_parameters: Vec<String>,
    /// The root has every mount point already, so the host can refuse all writes to it.
    pub sealed_root: bool,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This configuration file.
    File(PathBuf),
    /// This annotation.
    Annotation(String),
    /// This JSON path of the bundle's `vm` section.
    VmSection(&'static str),
    /// This option of the command line.
    Option(&'static str),
}

/// A configuration that cannot be used. Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// reading configuration {0:?}: {1}
    #[error("reading configuration {0:?}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The file is malformed.
    #[error("configuration {path}:{line}: {problem}")]
    File {
        /// File, for people.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// An annotation is not known, not allowed, or has a bad value.
    #[error("annotation {key}: {problem}")]
    Annotation {
        /// Its whole key.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The `vm` section asks for something that is not there.
    #[error("config.json: {path}: {problem}")]
    VmSection {
        /// JSON path.
        path: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A file of the mini-OS cannot be used.
    #[error("{key} = {path:?}: {problem}")]
    MiniOs {
        /// `section.key`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Configuration {
    /// Reads the configuration file. `None` means [`PATH`], which may be missing; a named file must exist.
    ///
    /// # Errors
    /// When it cannot be read or is malformed.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigurationError> {
        use std::io::Read;
        let file = path.unwrap_or(Path::new(PATH));
        let error = |e| ConfigurationError::Read(file.to_path_buf(), e);
        let opened = match std::fs::File::open(file) {
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            opened => opened.map_err(error)?,
        };
        let mut text = String::new();
        if opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(error)? as u64 > MAX_FILE {
            return Err(error(std::io::Error::other(format!("more than {MAX_FILE} bytes, the limit"))));
        }
        Self::parse(&text, file)
    }

    /// Reads the text of a configuration file; `path` is for messages and origins.
    ///
    /// # Errors
    /// Bad syntax, an unknown key or a bad value, with its line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigurationError> {
        let failed = |error: &toml::de::Error| {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            ConfigurationError::File {
                path: one_line(&path.display().to_string()),
                line: text.as_bytes()[..before].iter().filter(|b| **b == b'\n').count() + 1,
                problem: one_line(error.message()),
            }
        };
        let mut configuration: Self = toml::from_str(text).map_err(|e| failed(&e))?;
        let table: toml::Table = toml::from_str(text).map_err(|e| failed(&e))?;
        for (section, keys) in &table {
            for key in keys.as_table().into_iter().flatten().map(|(key, _)| key) {
                configuration.origins.insert(format!("{section}.{key}"), Origin::File(path.to_path_buf()));
            }
        }
        configuration.check(path)?;
        Ok(configuration)
    }

    /// What the types cannot say.
    fn check(&self, path: &Path) -> Result<(), ConfigurationError> {
        let wrong = |key: &str, problem: &str| ConfigurationError::File {
            path: one_line(&path.display().to_string()),
            line: 0,
            problem: format!("{key} {problem}"),
        };
        let machine = &self.machine;
        if machine.default_vcpus == 0 || machine.default_vcpus > machine_spec::MAX_VCPUS {
            return Err(wrong("machine.default_vcpus", "must be 1 to 255"));
        }
        if machine.default_memory_mib < machine_spec::MIN_MEMORY_MIB {
            return Err(wrong("machine.default_memory_mib", "must be at least 48"));
        }
        if machine.boot_timeout_s == 0 {
            return Err(wrong("machine.boot_timeout_s", "must be at least 1"));
        }
        if self.network.min_devices > MAX_DEVICES {
            return Err(wrong("network.min_devices", &format!("must be 0 to {MAX_DEVICES}")));
        }
        if !(1..=MAX_QUEUES).contains(&self.network.queues) {
            return Err(wrong("network.queues", &format!("must be 1 to {MAX_QUEUES}")));
        }
        if !self.runtime.root.is_absolute() {
            return Err(wrong("runtime.root", "must be an absolute path"));
        }
        if let Some(name) = self.security.allowed_annotations.iter().find(|n| !annotations::is_known(n)) {
            return Err(wrong(
                "security.allowed_annotations",
                &format!("names {name:?}, which is no annotation"),
            ));
        }
        Ok(())
    }

    /// This configuration with what the container's `vm` section and annotations ask for.
    ///
    /// # Errors
    /// When they ask for something unknown, not allowed or malformed.
    pub fn for_bundle(&self, bundle: &Bundle) -> Result<Self, ConfigurationError> {
        let mut configuration = self.clone();
        vm_section::apply(&mut configuration, bundle)?;
        annotations::apply(&mut configuration, bundle.spec.annotations().iter().flatten())?;
        Ok(configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        Configuration::parse(text, Path::new("/c.toml")).unwrap_err().to_string()
    }

    #[test]
    fn the_documented_file_is_the_default_and_has_every_key() {
        let parsed = Configuration::parse(DEFAULT_FILE, Path::new("/c.toml")).unwrap();
        let default = Configuration::default();
        assert_eq!(Configuration { origins: BTreeMap::new(), ..parsed.clone() }, default);
        let keys = |c: &Configuration| c.values().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let written: Vec<_> = parsed.origins.into_keys().collect();
        let mut known = keys(&default);
        known.sort();
        assert_eq!(written, known);
        for line in
            DEFAULT_FILE.lines().scan("", |before, line| Some((std::mem::replace(before, line), line)))
        {
            if line.1.contains(" = ") && !line.1.starts_with('#') {
                assert!(line.0.starts_with('#'), "no comment above {}", line.1);
            }
        }
    }

    #[test]
    fn faults_name_line_and_key() {
        assert!(
            message("[machine]\nvcpu = 1\n").starts_with("configuration /c.toml:2: unknown field `vcpu`")
        );
        assert!(message("\n\n[machine\n").starts_with("configuration /c.toml:3: "));
        assert!(message("[machine]\naccelerator = \"fast\"").contains("unknown variant `fast`"));
        assert!(message("[machine]\ndefault_vcpus = 0").contains("machine.default_vcpus must be 1 to 255"));
        assert!(
            message("[security]\nallowed_annotations = [\"x\"]").contains("\"x\", which is no annotation")
        );
        assert!(!message("[machine]\nvcpu = 1\n").contains('\n'));
    }

    #[test]
    fn a_named_file_must_exist_and_the_standard_one_need_not() {
        assert!(matches!(
            Configuration::load(Some(Path::new("/no/such"))),
            Err(ConfigurationError::Read(..))
        ));
    }
}
