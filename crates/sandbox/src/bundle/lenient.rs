//! From the text of `config.json` to a [`Spec`], forgiving where the specification or runc is and oci-spec is not.
//!
//! Taken out before oci-spec sees the document, because it would refuse what must only be warned about, has no
//! type for it, or spells it wrongly: unknown capabilities, foreign seccomp architectures, `vm.hwConfig`, sections
//! of other operating systems, `SCHED_FLAG_DL_OVERRUN`, and `null` where Go writes an empty list.

use super::BundleError;
use crate::bundle::text::one_line;
use oci_spec::runtime::{Arch, Capability, Process, Spec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Parts of a configuration that oci-spec has no type for, and what was left out of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// `vm.hwConfig`.
    pub hardware: Option<Hardware>,
    /// JSON paths of sections that are present and cannot be honoured.
    pub refused: Vec<&'static str>,
    /// What was left out, one sentence each.
    pub warnings: Vec<String>,
}

/// `vm.hwConfig` of runtime-spec 1.3, without its Xen parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hardware {
    /// Number of vCPUs.
    pub vcpus: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// Sections for which a virtual machine has no counterpart: taken out and refused by the plan.
const REFUSED: [&str; 6] =
    ["solaris", "windows", "zos", "linux.intelRdt", "linux.netDevices", "linux.memoryPolicy"];

/// Reads the text of a `config.json`.
///
/// # Errors
/// No JSON, a value of the wrong shape (with its JSON path), a version other than 1.x.
pub fn parse(text: &[u8]) -> Result<(Spec, Extra), BundleError> {
    let mut document = json(text)?;
    check_version(&document)?;
    let mut extra = Extra::default();
    take_refused(&mut document, &mut extra);
    if let Some(process) = document.get_mut("process") {
        soften_process(process, "process", &mut extra.warnings);
    }
    soften_seccomp(&mut document, &mut extra.warnings);
    if let Some(hardware) = document.pointer_mut("/vm/hwConfig").map(Value::take) {
        extra.hardware = Some(typed(hardware, "vm.hwConfig")?);
    }
    let spec: Spec = typed(document, "")?;
    Ok((spec, extra))
}

/// Reads a process as `exec --process` gives it. Returns it with the warnings about what was left out.
///
/// # Errors
/// As [`parse`], without the version.
pub fn parse_process(text: &[u8]) -> Result<(Process, Vec<String>), BundleError> {
    let mut document = json(text)?;
    let mut warnings = Vec::new();
    soften_process(&mut document, "process", &mut warnings);
    Ok((typed(document, "process")?, warnings))
}

fn json(text: &[u8]) -> Result<Value, BundleError> {
    serde_json::from_slice(text).map_err(|e| BundleError::Syntax(one_line(&e.to_string())))
}

/// `document` as a `T`; an error names the place as `prefix` and the path below it.
fn typed<T: DeserializeOwned>(document: Value, prefix: &str) -> Result<T, BundleError> {
    serde_path_to_error::deserialize(document).map_err(|e| {
        let below = e.path().to_string();
        let path = match (prefix, below.as_str()) {
            ("", ".") => "the document".to_string(),
            ("", _) => below,
            (_, ".") => prefix.to_string(),
            _ => format!("{prefix}.{below}"),
        };
        BundleError::value(path, e.into_inner())
    })
}

fn check_version(document: &Value) -> Result<(), BundleError> {
    let Value::Object(fields) = document else {
        return Err(BundleError::value("the document", "must be a JSON object"));
    };
    let version = match fields.get("ociVersion") {
        Some(Value::String(version)) => version,
        Some(_) => return Err(BundleError::value("ociVersion", "must be a string such as \"1.0.2\"")),
        None => return Err(BundleError::value("ociVersion", "missing; write for example \"1.0.2\"")),
    };
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<_> = numbers.split('.').collect();
    let numeric = parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if parts.len() == 3 && numeric && parts[0] == "1" {
        Ok(())
    } else {
        Err(BundleError::Version(version.clone()))
    }
}

fn take_refused(document: &mut Value, extra: &mut Extra) {
    for path in REFUSED {
        let (parent, name) = path.split_once('.').map_or(("", path), |(parent, name)| (parent, name));
        let parent = if parent.is_empty() { Some(&mut *document) } else { document.get_mut(parent) };
        let taken = parent.and_then(Value::as_object_mut).and_then(|fields| fields.remove(name));
        if taken.is_some_and(|value| !is_empty(&value)) {
            extra.refused.push(path);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn soften_process(process: &mut Value, path: &str, warnings: &mut Vec<String>) {
    if let Some(Value::Object(sets)) = process.get_mut("capabilities") {
        for (set, names) in sets.iter_mut() {
            keep_known::<Capability>(names, |name| {
                let why = "no such capability is known; it is left out";
                warnings.push(format!("{path}.capabilities.{}: {}: {why}", one_line(set), one_line(name)));
            });
        }
    }
    let flags = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        // oci-spec derives the name from its variant and gets this one wrong.
        if flag == "SCHED_FLAG_DL_OVERRUN" {
            *flag = "SCHED_FLAG_D_L_OVERRUN".into();
        }
    }
}

fn soften_seccomp(document: &mut Value, warnings: &mut Vec<String>) {
    let Some(seccomp) = document.pointer_mut("/linux/seccomp") else { return };
    if let Some(names) = seccomp.get_mut("architectures") {
        keep_known::<Arch>(names, |name| {
            let why = "unknown; no program of it can run here";
            warnings.push(format!("linux.seccomp.architectures: {}: {why}", one_line(name)));
        });
    }
    for rule in seccomp.get_mut("syscalls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(names @ Value::Null) = rule.get_mut("names") {
            *names = Value::Array(Vec::new());
        }
    }
}

/// Removes strings that are no `T` from a list; anything else is left for the typed reading to refuse.
fn keep_known<T: DeserializeOwned>(list: &mut Value, mut unknown: impl FnMut(&str)) {
    let Some(items) = list.as_array_mut() else { return };
    items.retain(|item| {
        let Some(name) = item.as_str() else { return true };
        let known = T::deserialize(Value::String(name.to_string())).is_ok();
        if !known {
            unknown(name);
        }
        known
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(rest: &str) -> Result<(Spec, Extra), BundleError> {
        parse(format!(r#"{{"ociVersion":"1.0.2"{rest}}}"#).as_bytes())
    }

    #[test]
    fn every_1_x_is_spoken_and_nothing_else() {
        let version =
            |v: &str| parse(format!(r#"{{"ociVersion":{v}}}"#).as_bytes()).map_err(|e| e.to_string());
        for good in ["\"1.0.0\"", "\"1.0.2-dev\"", "\"1.3.0\"", "\"1.2.0+build\"", "\"1.0.0-rc5\""] {
            assert!(version(good).is_ok(), "{good}");
        }
        for bad in ["\"2.0.0\"", "\"0.9.0\"", "\"1\"", "\"1.x.0\"", "\"\"", "\"10.0.0\""] {
            assert!(version(bad).unwrap_err().contains("speaks 1.x"), "{bad}");
        }
        assert_eq!(version("5").unwrap_err(), "config.json: ociVersion: must be a string such as \"1.0.2\"");
        assert!(parse(b"{}").unwrap_err().to_string().contains("ociVersion: missing"));
        assert!(parse(b"[]").unwrap_err().to_string().contains("must be a JSON object"));
    }

    #[test]
    fn an_error_names_its_json_path() {
        let message = |rest: &str| parsed(rest).unwrap_err().to_string();
        assert_eq!(
            message(r#","process":{"cwd":"/","user":{"uid":"x","gid":0}}"#),
            "config.json: process.user.uid: invalid type: string \"x\", expected u32"
        );
        assert_eq!(
            message(r#","mounts":[{"destination":"/a"},{"source":"/b"}]"#),
            "config.json: mounts[1]: missing field `destination`"
        );
        assert!(
            message(r#","vm":{"kernel":{"path":"/k"},"hwConfig":{"vcpus":"2"}}"#)
                .contains("vm.hwConfig.vcpus")
        );
    }

    #[test]
    fn unknown_properties_are_ignored_and_unknown_names_left_out() {
        let (spec, extra) = parsed(
            r#","future":{"a":1},"process":{"cwd":"/","user":{"uid":0,"gid":0},"capabilities":{"bounding":["CAP_KILL","CAP_NEW"]},
               "scheduler":{"policy":"SCHED_DEADLINE","flags":["SCHED_FLAG_DL_OVERRUN"]}},
               "linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_NEW"],
                        "syscalls":[{"names":null,"action":"SCMP_ACT_ERRNO"}]}}"#,
        )
        .unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
        assert_eq!(extra.warnings.len(), 2);
        assert!(extra.warnings[0].contains("CAP_NEW"), "{:?}", extra.warnings);
        assert!(extra.warnings[1].contains("SCMP_ARCH_NEW"), "{:?}", extra.warnings);
    }

    #[test]
    fn the_hardware_of_the_vm_section_is_kept() {
        let vm = r#","vm":{"kernel":{"path":"/k"},"hwConfig":{"vcpus":3,"memory":1048576,"irqs":[1]}}"#;
        let (spec, extra) = parsed(vm).unwrap();
        assert_eq!(extra.hardware, Some(Hardware { vcpus: Some(3), memory: Some(1 << 20) }));
        assert_eq!(spec.vm().as_ref().unwrap().kernel().path(), std::path::Path::new("/k"));
    }

    #[test]
    fn sections_without_counterpart_are_reported_unless_empty() {
        let (_, extra) = parsed(
            r#","windows":{"x":1},"solaris":{},"linux":{"intelRdt":{"closID":"a"},"netDevices":null}"#,
        )
        .unwrap();
        assert_eq!(extra.refused, ["windows", "linux.intelRdt"]);
    }
}
