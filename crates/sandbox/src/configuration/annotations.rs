//! Annotations that change how one container is run: `io.clearcontainers.<name>`.

use super::{Configuration, ConfigurationError, Origin};
use machine_spec::MAX_QUEUES;
use serde::de::DeserializeOwned;

/// What the keys of our annotations start with. An unknown key with this start is an error: a typing mistake that
/// silently changed nothing would be worse.
pub const PREFIX: &str = "io.clearcontainers.";

type Set = fn(&mut Configuration, &str) -> Result<(), String>;

/// One annotation.
struct Annotation {
    /// Its key without the prefix.
    name: &'static str,
    /// What it sets, as `section.key`.
    key: &'static str,
    /// Whether it is honoured unless the configuration file says otherwise.
    ///
    /// Engines copy annotations from their users, who need not be the host's administrator. A path would let them
    /// map any file of the host into their machine, a program path would run it, and emulation is no wall that is
    /// meant to hold. So these are closed; sizes are bounded by the configuration, pins only narrow the choice.
    open: bool,
    set: Set,
}

const ANNOTATIONS: [Annotation; 17] = [
    Annotation {
        name: "vcpus",
        key: "container.vcpus",
        open: true,
        set: |c, v| into_some(&mut c.container.vcpus, v),
    },
    Annotation {
        name: "memory_mib",
        key: "container.memory_mib",
        open: true,
        set: |c, v| into_some(&mut c.container.memory_mib, v),
    },
    Annotation {
        name: "chassis",
        key: "machine.chassis",
        open: true,
        set: |c, v| named(&mut c.machine.chassis, v),
    },
    Annotation {
        name: "console",
        key: "machine.console",
        open: true,
        set: |c, v| into(&mut c.machine.console, v),
    },
    Annotation {
        name: "boot_timeout_s",
        key: "machine.boot_timeout_s",
        open: true,
        set: |c, v| match v.parse() {
            Ok(seconds @ 1..=3600) => {
                c.machine.boot_timeout_s = seconds;
                Ok(())
            }
            _ => Err("must be 1 to 3600 seconds".into()),
        },
    },
    Annotation { name: "mini_os", key: "mini_os.name", open: true, set: |c, v| into(&mut c.mini_os.name, v) },
    Annotation {
        name: "kernel_sha256",
        key: "mini_os.kernel_sha256",
        open: true,
        set: |c, v| into(&mut c.mini_os.kernel_sha256, v),
    },
    Annotation {
        name: "image_sha256",
        key: "mini_os.image_sha256",
        open: true,
        set: |c, v| into(&mut c.mini_os.image_sha256, v),
    },
    Annotation {
        name: "network_model",
        key: "network.model",
        open: true,
        set: |c, v| named(&mut c.network.model, v),
    },
    Annotation {
        name: "network_passthrough",
        key: "network.passthrough",
        open: false,
        set: |c, v| named(&mut c.network.passthrough, v),
    },
    Annotation {
        name: "network_queues",
        key: "network.queues",
        open: true,
        set: |c, v| match v.parse() {
            Ok(queues @ 1..=MAX_QUEUES) => {
                c.network.queues = queues;
                Ok(())
            }
            _ => Err(format!("must be 1 to {MAX_QUEUES}")),
        },
    },
    Annotation {
        name: "accelerator",
        key: "machine.accelerator",
        open: false,
        set: |c, v| named(&mut c.machine.accelerator, v),
    },
    Annotation { name: "qemu", key: "machine.qemu", open: false, set: |c, v| path(&mut c.machine.qemu, v) },
    Annotation {
        name: "kernel",
        key: "mini_os.kernel",
        open: false,
        set: |c, v| path(&mut c.mini_os.kernel, v),
    },
    Annotation {
        name: "initramfs",
        key: "mini_os.initramfs",
        open: false,
        set: |c, v| path(&mut c.mini_os.initramfs, v),
    },
    Annotation {
        name: "image",
        key: "mini_os.image",
        open: false,
        set: |c, v| path(&mut c.mini_os.image, v),
    },
    Annotation {
        name: "kernel_parameters",
        key: "container.kernel_parameters",
        open: false,
        set: |c, v| {
            c.container.kernel_parameters.extend(v.split_whitespace().map(String::from));
            Ok(())
        },
    },
];

/// Names that are honoured unless the configuration file says otherwise.
pub(super) fn allowed_by_default() -> Vec<String> {
    ANNOTATIONS.iter().filter(|a| a.open).map(|a| a.name.to_string()).collect()
}

/// Whether there is an annotation of this name (without prefix).
pub(super) fn is_known(name: &str) -> bool {
    ANNOTATIONS.iter().any(|a| a.name == name)
}

/// Applies our annotations; others are nobody's business here.
pub(super) fn apply<'a>(
    configuration: &mut Configuration,
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), ConfigurationError> {
    let mut ours: Vec<_> = annotations.filter(|(key, _)| key.starts_with(PREFIX)).collect();
    ours.sort();
    for (key, value) in ours {
        let failed = |problem: String| ConfigurationError::Annotation {
            key: super::one_line(key),
            problem: super::one_line(&problem),
        };
        let name = &key[PREFIX.len()..];
        let Some(annotation) = ANNOTATIONS.iter().find(|a| a.name == name) else {
            let names: Vec<_> = ANNOTATIONS.iter().map(|a| a.name).collect();
            return Err(failed(format!("unknown; {PREFIX}* may be {}", names.join(", "))));
        };
        if !configuration.security.allowed_annotations.iter().any(|allowed| allowed == name) {
            let fix = format!("to allow it, add {name:?} to security.allowed_annotations in {}", super::PATH);
            return Err(failed(format!("not allowed by this host's configuration; {fix}")));
        }
        (annotation.set)(configuration, value).map_err(failed)?;
        configuration.origins.insert(annotation.key.into(), Origin::Annotation(key.clone()));
    }
    Ok(())
}

fn into<T: std::str::FromStr>(place: &mut T, value: &str) -> Result<(), String> {
    *place = value.parse().map_err(|_| format!("{value:?} is not a value for it"))?;
    Ok(())
}

fn into_some<T: std::str::FromStr>(place: &mut Option<T>, value: &str) -> Result<(), String> {
    *place = Some(value.parse().map_err(|_| format!("{value:?} is not a value for it"))?);
    Ok(())
}

fn path(place: &mut std::path::PathBuf, value: &str) -> Result<(), String> {
    if !value.starts_with('/') {
        return Err(format!("{value:?} must be an absolute path"));
    }
    *place = value.into();
    Ok(())
}

/// A value that is one of the names of an enum.
fn named<T: DeserializeOwned>(place: &mut T, value: &str) -> Result<(), String> {
    *place = serde_json::from_value(value.into()).map_err(|e| e.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{AcceleratorChoice, ChassisChoice};
    use std::collections::BTreeMap;

    fn applied(annotations: &[(&str, &str)], allowed: &[&str]) -> Result<Configuration, String> {
        let mut configuration = Configuration::default();
        configuration.security.allowed_annotations.extend(allowed.iter().map(|a| a.to_string()));
        let map: BTreeMap<_, _> =
            annotations.iter().map(|(k, v)| (format!("{PREFIX}{k}"), v.to_string())).collect();
        apply(&mut configuration, map.iter()).map_err(|e| e.to_string())?;
        Ok(configuration)
    }

    #[test]
    fn annotations_set_what_they_name() {
        let c =
            applied(&[("vcpus", "3"), ("memory_mib", "700"), ("chassis", "q35"), ("mini_os", "mine")], &[])
                .unwrap();
        assert_eq!((c.container.vcpus, c.container.memory_mib), (Some(3), Some(700)));
        assert_eq!((c.machine.chassis, c.mini_os.name.as_str()), (ChassisChoice::Q35, "mine"));
        assert_eq!(c.origins["container.vcpus"], Origin::Annotation("io.clearcontainers.vcpus".into()));
        let c =
            applied(&[("accelerator", "emulation"), ("kernel", "/k")], &["accelerator", "kernel"]).unwrap();
        assert_eq!((c.machine.accelerator, c.mini_os.kernel), (AcceleratorChoice::Emulation, "/k".into()));
    }

    #[test]
    fn unknown_closed_and_malformed_ones_are_refused() {
        assert!(
            applied(&[("vcpu", "3")], &[])
                .unwrap_err()
                .starts_with("annotation io.clearcontainers.vcpu: unknown;")
        );
        for closed in ["kernel", "image", "qemu", "initramfs", "accelerator", "kernel_parameters"] {
            let error = applied(&[(closed, "/x")], &[]).unwrap_err();
            assert!(error.contains("not allowed by this host's configuration; to allow it, add"), "{error}");
        }
        assert!(applied(&[("vcpus", "many")], &[]).unwrap_err().contains("\"many\" is not a value"));
        assert!(applied(&[("chassis", "pc")], &[]).unwrap_err().contains("unknown variant `pc`"));
        assert!(applied(&[("kernel", "k")], &["kernel"]).unwrap_err().contains("absolute"));
        assert!(applied(&[("boot_timeout_s", "0")], &[]).is_err());
        for bad in ["0", "9", "-1", "two"] {
            assert!(
                applied(&[("network_queues", bad)], &[]).unwrap_err().contains("must be 1 to 8"),
                "{bad}"
            );
        }
        assert_eq!(applied(&[("network_queues", "2")], &[]).unwrap().network.queues, 2);
    }
}
