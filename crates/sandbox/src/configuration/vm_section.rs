//! The `vm` section of a bundle's configuration: the specification's own way to choose hypervisor, kernel and image.
//!
//! Engines never write it from their users' wishes, so unlike annotations it may name paths.

use super::{Backend, Configuration, ConfigurationError, Origin};
use crate::bundle::Bundle;
use std::path::{Path, PathBuf};

/// Applies the section, if there is one.
pub(super) fn apply(configuration: &mut Configuration, bundle: &Bundle) -> Result<(), ConfigurationError> {
    if let Some(vm) = bundle.spec.vm() {
        if let Some(hypervisor) = vm.hypervisor() {
            if hypervisor.parameters().iter().flatten().next().is_some() {
                let why = "parameters cannot be passed to the hypervisor: the plan owns its command line; remove them";
                return Err(refused("vm.hypervisor.parameters", why));
            }
            let path = hypervisor.path();
            let ours = path.file_name().is_some_and(|name| name == "clear-vmm");
            if ours {
                set_path(configuration, path, "machine.clear_vmm", "vm.hypervisor.path", |c| {
                    &mut c.machine.clear_vmm
                })?;
            } else {
                set_path(configuration, path, "machine.qemu", "vm.hypervisor.path", |c| &mut c.machine.qemu)?;
            }
            if !path.as_os_str().is_empty() {
                configuration.machine.backend = if ours { Backend::ClearVmm } else { Backend::Qemu };
                note(configuration, "machine.backend", "vm.hypervisor.path");
            }
        }
        let kernel = vm.kernel();
        set_path(configuration, kernel.path(), "mini_os.kernel", "vm.kernel.path", |c| {
            &mut c.mini_os.kernel
        })?;
        let initrd = PathBuf::from(kernel.initrd().clone().unwrap_or_default());
        set_path(configuration, &initrd, "mini_os.initramfs", "vm.kernel.initrd", |c| {
            &mut c.mini_os.initramfs
        })?;
        if let Some(parameters) = kernel.parameters().as_ref().filter(|p| !p.is_empty()) {
            configuration.container.kernel_parameters.extend(parameters.iter().cloned());
            note(configuration, "container.kernel_parameters", "vm.kernel.parameters");
        }
        if let Some(image) = vm.image() {
            if image.format() != "raw" {
                return Err(refused(
                    "vm.image.format",
                    "only \"raw\" images can be used; convert it with qemu-img",
                ));
            }
            set_path(configuration, image.path(), "mini_os.image", "vm.image.path", |c| {
                &mut c.mini_os.image
            })?;
        }
    }
    if let Some(hardware) = &bundle.extra.hardware {
        if let Some(vcpus) = hardware.vcpus.filter(|n| *n > 0) {
            configuration.container.vcpus = Some(vcpus);
            note(configuration, "container.vcpus", "vm.hwConfig.vcpus");
        }
        if let Some(bytes) = hardware.memory.filter(|n| *n > 0) {
            configuration.container.memory_mib = Some(bytes.div_ceil(1 << 20));
            note(configuration, "container.memory_mib", "vm.hwConfig.memory");
        }
    }
    Ok(())
}

fn set_path(
    configuration: &mut Configuration,
    path: &Path,
    key: &str,
    origin: &'static str,
    place: fn(&mut Configuration) -> &mut PathBuf,
) -> Result<(), ConfigurationError> {
    if path.as_os_str().is_empty() {
        return Ok(()); // `kernel.path` is required even from who only wants another number of CPUs
    }
    if !path.is_absolute() {
        return Err(refused(origin, "must be an absolute path"));
    }
    *place(configuration) = path.to_path_buf();
    note(configuration, key, origin);
    Ok(())
}

fn note(configuration: &mut Configuration, key: &str, origin: &'static str) {
    configuration.origins.insert(key.into(), Origin::VmSection(origin));
}

fn refused(path: &'static str, problem: &str) -> ConfigurationError {
    ConfigurationError::VmSection { path, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use crate::bundle::{Bundle, Sources};
    use crate::configuration::{Configuration, Origin};

    fn applied(vm: &str) -> Result<Configuration, String> {
        let text = format!(r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"vm":{vm}}}"#);
        let bundle = Bundle::new("/b".into(), text.as_bytes(), Sources::new()).unwrap();
        Configuration::default().for_bundle(&bundle).map_err(|e| e.to_string())
    }

    #[test]
    fn hypervisor_kernel_image_and_size_are_taken() {
        let c = applied(
            r#"{"hypervisor":{"path":"/q"},"kernel":{"path":"/k","parameters":["a=1"],"initrd":"/i"},
                "image":{"path":"/m","format":"raw"},"hwConfig":{"vcpus":2,"memory":1073741825}}"#,
        )
        .unwrap();
        assert_eq!((c.machine.qemu.to_str(), c.mini_os.kernel.to_str()), (Some("/q"), Some("/k")));
        assert_eq!(c.machine.backend, crate::configuration::Backend::Qemu);
        assert_eq!((c.mini_os.initramfs.to_str(), c.mini_os.image.to_str()), (Some("/i"), Some("/m")));
        assert_eq!((c.container.vcpus, c.container.memory_mib), (Some(2), Some(1025)));
        assert_eq!(c.container.kernel_parameters, ["a=1"]);
        assert_eq!(c.origins["mini_os.kernel"], Origin::VmSection("vm.kernel.path"));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let error = |vm: &str| applied(vm).unwrap_err();
        assert!(
            error(r#"{"hypervisor":{"path":"/q","parameters":["x"]},"kernel":{"path":""}}"#)
                .contains("remove them")
        );
        assert!(error(r#"{"kernel":{"path":"k"}}"#).contains("vm.kernel.path: must be an absolute path"));
        assert!(
            error(r#"{"kernel":{"path":""},"image":{"path":"/i","format":"qcow2"}}"#)
                .contains("only \"raw\"")
        );
    }
}
