//! A mini-OS with files of one's own: a kernel, initramfs or image named by path instead of the built one's.

use super::{Configuration, ConfigurationError, KernelFeature};
use machine_spec::mini_os::{Features, File, MiniOs};
use std::path::{Path, PathBuf};

impl Configuration {
    /// `base` (the mini-OS named by `mini_os.name`, its paths made absolute) with the files and pins configured.
    /// `size` gives a file's length in bytes. A `sha256` that is left empty in the result is not to be checked.
    ///
    /// # Errors
    /// When a file cannot be used, or a pin differs from the mini-OS's own hash.
    pub fn mini_os(
        &self,
        base: MiniOs,
        size: impl Fn(&Path) -> std::io::Result<u64>,
    ) -> Result<MiniOs, ConfigurationError> {
        let mut result = base;
        let choice = &self.mini_os;
        let file = |key, path: &PathBuf, pin: &str| {
            let failed = |problem: String| ConfigurationError::MiniOs { key, path: path.clone(), problem };
            let size = size(path).map_err(|e| failed(e.to_string()))?;
            Ok(File { path: path.clone(), sha256: pin.to_ascii_lowercase(), size })
        };
        if !choice.kernel.as_os_str().is_empty() {
            result.kernel = file("mini_os.kernel", &choice.kernel, &choice.kernel_sha256)?;
            result.origin = format!("file:{}", choice.kernel.display());
            let has = |feature| choice.kernel_features.contains(&feature);
            result.features = Features {
                virtio_mmio: has(KernelFeature::VirtioMmio),
                block_root: has(KernelFeature::BlockRoot),
                dax_root: has(KernelFeature::DaxRoot),
                clear: has(KernelFeature::Clear),
            };
        }
        check_pin("mini_os.kernel_sha256", &result.kernel, &choice.kernel_sha256)?;
        if !choice.initramfs.as_os_str().is_empty() {
            result.initramfs = Some(file("mini_os.initramfs", &choice.initramfs, "")?);
        }
        if !choice.image.as_os_str().is_empty() {
            result.image = Some(file("mini_os.image", &choice.image, &choice.image_sha256)?);
            // The user's image is what shall be booted, not an initramfs that happens to be there too.
            if choice.initramfs.as_os_str().is_empty() {
                result.initramfs = None;
            }
        }
        if let Some(image) = &result.image {
            check_pin("mini_os.image_sha256", image, &choice.image_sha256)?;
        }
        Ok(result)
    }
}

fn check_pin(key: &'static str, file: &File, pin: &str) -> Result<(), ConfigurationError> {
    if pin.is_empty() || file.sha256.eq_ignore_ascii_case(pin) {
        return Ok(());
    }
    let problem = format!("has the hash {}, but {pin} is pinned; rebuild it or change the pin", file.sha256);
    Err(ConfigurationError::MiniOs { key, path: file.path.clone(), problem: super::one_line(&problem) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> MiniOs {
        let file = |name: &str| File { path: format!("/s/{name}").into(), sha256: "aa".into(), size: 5 };
        MiniOs {
            version: 1,
            origin: "source:core".into(),
            arch: "x86_64".into(),
            release: "6.12".into(),
            kernel: file("vmlinux"),
            initramfs: Some(file("initramfs.cpio")),
            image: Some(file("image.erofs")),
            features: Features { virtio_mmio: true, block_root: true, dax_root: true, clear: true },
        }
    }

    #[test]
    fn files_replace_and_features_are_not_assumed() {
        let mut c = Configuration::default();
        assert_eq!(c.mini_os(base(), |_| Ok(1)).unwrap(), base());
        c.mini_os.kernel = "/k".into();
        c.mini_os.image = "/i".into();
        c.mini_os.kernel_features = vec![KernelFeature::BlockRoot];
        let mine = c.mini_os(base(), |_| Ok(7)).unwrap();
        assert_eq!(mine.kernel, File { path: "/k".into(), sha256: String::new(), size: 7 });
        assert_eq!(
            mine.features,
            Features { virtio_mmio: false, block_root: true, dax_root: false, clear: false }
        );
        assert_eq!((mine.initramfs, mine.image.unwrap().path), (None, "/i".into()));
        let missing = c.mini_os(base(), |_| Err(std::io::ErrorKind::NotFound.into())).unwrap_err();
        assert!(missing.to_string().starts_with("mini_os.kernel = \"/k\": "));
    }

    #[test]
    fn a_pin_must_fit() {
        let mut c = Configuration::default();
        c.mini_os.kernel_sha256 = "AA".into();
        assert!(c.mini_os(base(), |_| Ok(1)).is_ok());
        c.mini_os.image_sha256 = "bb".into();
        assert!(c.mini_os(base(), |_| Ok(1)).unwrap_err().to_string().contains("but bb is pinned"));
    }
}
