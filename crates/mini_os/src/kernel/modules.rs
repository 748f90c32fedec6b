//! Kernel modules: which we want, what they depend on, in which order they load.
//!
//! Dependencies come from the modules themselves (section `.modinfo`), as `depmod` finds them: the package holds no
//! `modules.dep`, and reading ten modules is faster than indexing four thousand.

use crate::elf::{Elf, ElfError};
use std::collections::{BTreeMap, BTreeSet};

/// Modules of Debian's kernel that a container's machine needs. Each costs 10 to 50 ms of every boot by emulation,
/// `ext4` 200; who needs more names them in a manifest.
pub const WANTED: &[&str] = &[
    // Directories of the host.
    "9p",
    "9pnet_virtio",
    // Writable root over a read-only one.
    "overlay",
    "virtio_net",
    // Volumes that are disks.
    "virtio_blk",
];

/// Crypto algorithms that modules ask for by `softdep`, and the module that has them on every CPU.
const ALGORITHMS: &[(&str, &str)] = &[("crc32c", "crc32c_generic"), ("crypto_crc32c", "crc32c_generic")];

/// Modules that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// the kernel has no such module
    #[error("the kernel has no module {0:?}{needed}", needed = .1.as_ref().map(|by| format!(", which {by} needs")).unwrap_or_default())]
    Unknown(String, Option<String>),
    /// modules that need each other
    #[error("kernel modules depend on each other in a circle: {0}")]
    Circle(String),
    /// a module that cannot be read
    #[error("kernel module {0}: {1}")]
    Elf(String, ElfError),
}

/// A module's name as the kernel has it: of `nd-pmem.ko.xz` it is `nd_pmem`. `None` for other files.
pub fn name_of_file(file: &str) -> Option<String> {
    let (stem, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

/// Names in a `modules.builtin` file.
pub fn built_in(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| name_of_file(line.rsplit('/').next()?)).collect()
}

/// What a module needs: `depends`, and `softdep: pre`, by which modules name the crypto algorithms they ask for.
///
/// # Errors
/// [`ElfError`] when it is no ELF file.
pub fn dependencies(module: &[u8]) -> Result<Dependencies, ElfError> {
    let info = Elf::parse(module)?.section(".modinfo")?.unwrap_or_default();
    let mut found = Dependencies::default();
    for field in info.split(|byte| *byte == 0).map(String::from_utf8_lossy) {
        let plain = |name: &str| name.replace('-', "_");
        if let Some(list) = field.strip_prefix("depends=") {
            found.hard.extend(list.split(',').filter(|name| !name.is_empty()).map(plain));
        } else if let Some(list) = field.strip_prefix("softdep=") {
            let pre = list.split("post:").next().unwrap_or_default().replace("pre:", " ");
            found.soft.extend(pre.split_whitespace().map(plain));
        }
    }
    Ok(found)
}

/// What a module needs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dependencies {
    /// Must be there.
    pub hard: Vec<String>,
    /// Are taken if the kernel has them.
    pub soft: Vec<String>,
}

/// Modules of a kernel, by name.
pub trait Modules {
    /// Whether the kernel has it without a module.
    fn is_built_in(&self, name: &str) -> bool;
    /// What a module needs; `None` when there is no such module.
    ///
    /// # Errors
    /// Those of reading it.
    fn dependencies(&mut self, name: &str) -> anyhow::Result<Option<Dependencies>>;
}

/// Names of all modules to load, each after those it needs.
///
/// # Errors
/// [`ModuleError`], and those of reading modules.
pub fn load_order(wanted: &[&str], modules: &mut dyn Modules) -> anyhow::Result<Vec<String>> {
    let mut order = Order { modules, done: BTreeMap::new(), names: Vec::new() };
    for name in wanted {
        order.visit(&name.replace('-', "_"), None)?;
    }
    Ok(order.names)
}

struct Order<'a> {
    modules: &'a mut dyn Modules,
    /// `false` while the dependencies of a module are being visited.
    done: BTreeMap<String, bool>,
    names: Vec<String>,
}

impl Order<'_> {
    fn visit(&mut self, name: &str, by: Option<&str>) -> anyhow::Result<()> {
        match self.done.get(name) {
            Some(true) => return Ok(()),
            Some(false) => return Err(ModuleError::Circle(name.into()).into()),
            None => {}
        }
        if self.modules.is_built_in(name) {
            self.done.insert(name.into(), true);
            return Ok(());
        }
        let Some(needs) = self.modules.dependencies(name)? else {
            return Err(ModuleError::Unknown(name.into(), by.map(str::to_string)).into());
        };
        self.done.insert(name.into(), false);
        for soft in &needs.soft {
            let module = ALGORITHMS.iter().find(|(algorithm, _)| algorithm == soft);
            let soft = module.map_or(soft.as_str(), |(_, module)| module);
            match self.visit(soft, Some(name)) {
                Err(error) if matches!(error.downcast_ref(), Some(ModuleError::Unknown(..))) => {}
                other => other?,
            }
        }
        for hard in &needs.hard {
            self.visit(hard, Some(name))?;
        }
        self.done.insert(name.into(), true);
        self.names.push(name.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::file;

    struct Fake(&'static [(&'static str, &'static str)]);

    impl Modules for Fake {
        fn is_built_in(&self, name: &str) -> bool {
            name == "virtio"
        }

        fn dependencies(&mut self, name: &str) -> anyhow::Result<Option<Dependencies>> {
            let found = self.0.iter().find(|(module, _)| *module == name);
            Ok(found.map(|(_, info)| dependencies(&file(1, info.as_bytes())).unwrap()))
        }
    }

    #[test]
    fn needed_modules_come_first_and_once() {
        let mut fake = Fake(&[
            // Soft dependencies name algorithms, and may name what the kernel does not have.
            ("9p", "depends=9pnet,netfs\0"),
            ("9pnet", "depends=\0"),
            ("netfs", "depends=\0"),
            ("9pnet_virtio", "license=GPL\0depends=9pnet,virtio\0"),
            ("libcrc32c", "softdep=pre: crc32c\0depends=\0"),
            ("crc32c_generic", ""),
            ("ext4", "softdep=pre: crypto-crc32c gone post: late\0depends=libcrc32c\0"),
        ]);
        let order = load_order(&["9p", "9pnet-virtio", "ext4"], &mut fake).unwrap();
        assert_eq!(order, ["9pnet", "netfs", "9p", "9pnet_virtio", "crc32c_generic", "libcrc32c", "ext4"]);
    }

    #[test]
    fn missing_and_circular_modules_are_named() {
        let mut fake = Fake(&[("a", "depends=b\0"), ("b", "depends=a\0"), ("c", "depends=gone\0")]);
        assert_eq!(load_order(&["x"], &mut fake).unwrap_err().to_string(), "the kernel has no module \"x\"");
        let error = load_order(&["c"], &mut fake).unwrap_err().to_string();
        assert_eq!(error, "the kernel has no module \"gone\", which c needs");
        assert!(load_order(&["a"], &mut fake).unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(name_of_file("nd-pmem.ko.xz").as_deref(), Some("nd_pmem"));
        assert_eq!(name_of_file("9p.ko").as_deref(), Some("9p"));
        assert_eq!(name_of_file("modules.order"), None);
        assert_eq!(name_of_file("x.ko.orig"), None);
        let names = built_in("kernel/fs/fuse/fuse.ko\nkernel/drivers/virtio/virtio-pci.ko\n");
        assert_eq!(names, ["fuse", "virtio_pci"].map(String::from).into());
    }
}
