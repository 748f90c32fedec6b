//! The configuration as a whole: versions, extensions, invalid values.

use crate::case::{cases, same};
use crate::lab::Lab;
use anyhow::{Context, Result};
use serde_json::{Value, json};

cases! {
    "config.version-1.0.0" => version_1_0, "config.md#specification-version",
        "The specification retains forward and backward compatibility within major versions: 1.0.0";
    "config.version-1.1.0" => version_1_1, "config.md#specification-version",
        "The specification retains forward and backward compatibility within major versions: 1.1.0";
    "config.version-1.2.0" => version_1_2, "config.md#specification-version",
        "The specification retains forward and backward compatibility within major versions: 1.2.0";
    "config.version-1.3.0" => version_1_3, "config.md#specification-version",
        "The specification retains forward and backward compatibility within major versions: 1.3.0";
    "config.version-invalid" => version_invalid, "config.md#specification-version",
        "ociVersion (string, REQUIRED) MUST be in SemVer v2.0.0 format: anything else is an invalid value";
    "config.version-of-another-major" => version_of_another_major, "config.md#valid-values",
        "Implementations MUST generate an error when invalid or unsupported values are encountered: another major version";
    "config.unknown-property" => unknown_property, "config.md#extensibility",
        "Implementations MUST NOT generate an error if they encounter an unknown property: at the top";
    "config.unknown-nested-property" => unknown_nested_property, "config.md#extensibility",
        "Implementations MUST NOT generate an error if they encounter an unknown property: within known objects";
    "config.unknown-annotation" => unknown_annotation, "config.md#annotations",
        "Implementations that are reading this configuration MUST NOT generate an error if they encounter an unknown annotation key";
    "config.invalid-type" => invalid_type, "config.md#valid-values",
        "Implementations MUST generate an error when invalid values are encountered: text in place of an object";
    "config.invalid-namespace" => invalid_namespace, "config.md#valid-values",
        "Implementations MUST generate an error when invalid or unsupported values are encountered: a namespace type";
    "config.invalid-seccomp-action" => invalid_seccomp_action, "config.md#valid-values",
        "Implementations MUST generate an error when invalid or unsupported values are encountered: an action of seccomp";
    "config.invalid-propagation" => invalid_propagation, "config.md#valid-values",
        "Implementations MUST generate an error when invalid or unsupported values are encountered: rootfsPropagation";
    "config.hostname" => hostname, "config.md#hostname",
        "hostname specifies the container's hostname as seen by processes running inside the container";
    "config.domainname" => domainname, "config.md#domainname",
        "domainname specifies the container's domainname as seen by processes running inside the container";
}

fn runs_with(lab: &Lab, pointer: &str, value: Value) -> Result<()> {
    let output = lab.script("echo ran", |bundle| {
        bundle.set(pointer, value);
        Ok(())
    })?;
    same("output", "ran", &output)
}

fn refused_with(lab: &Lab, pointer: &str, value: Value) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let what = format!("{pointer} = {value}");
    bundle.set(pointer, value);
    lab.create_refused(&bundle).context(what).map(drop)
}

fn version_1_0(lab: &Lab) -> Result<()> {
    runs_with(lab, "/ociVersion", json!("1.0.0"))
}

fn version_1_1(lab: &Lab) -> Result<()> {
    runs_with(lab, "/ociVersion", json!("1.1.0"))
}

fn version_1_2(lab: &Lab) -> Result<()> {
    runs_with(lab, "/ociVersion", json!("1.2.0"))
}

fn version_1_3(lab: &Lab) -> Result<()> {
    runs_with(lab, "/ociVersion", json!("1.3.0"))
}

fn version_invalid(lab: &Lab) -> Result<()> {
    refused_with(lab, "/ociVersion", json!("one"))
}

fn version_of_another_major(lab: &Lab) -> Result<()> {
    refused_with(lab, "/ociVersion", json!("2.0.0"))
}

fn unknown_property(lab: &Lab) -> Result<()> {
    runs_with(lab, "/x-conformance", json!({"any": ["thing", 1, null]}))
}

fn unknown_nested_property(lab: &Lab) -> Result<()> {
    let output = lab.script("echo ran", |bundle| {
        for object in
            ["process", "process/user", "root", "linux", "linux/namespaces/0", "linux/resources", "hooks"]
        {
            if object.ends_with('0') {
                bundle.config["linux"]["namespaces"][0]["xConformance"] = json!(true);
            } else {
                bundle.set(&format!("/{object}/xConformance"), json!("unknown"));
            }
        }
        Ok(())
    })?;
    same("output", "ran", &output)
}

fn unknown_annotation(lab: &Lab) -> Result<()> {
    runs_with(lab, "/annotations", json!({"org.example.nobody-knows": "1"}))
}

fn invalid_type(lab: &Lab) -> Result<()> {
    refused_with(lab, "/process", json!("sleep 1000"))
}

fn invalid_namespace(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.namespace(&json!({"type": "no-such-type"}))).map(drop)
}

fn invalid_seccomp_action(lab: &Lab) -> Result<()> {
    refused_with(lab, "/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NO_SUCH"}))
}

fn invalid_propagation(lab: &Lab) -> Result<()> {
    refused_with(lab, "/linux/rootfsPropagation", json!("no-such-propagation"))
}

fn hostname(lab: &Lab) -> Result<()> {
    let output = lab.script("hostname", |bundle| {
        bundle.set("/hostname", json!("mrsdalloway"));
        Ok(())
    })?;
    same("hostname", "mrsdalloway", &output)
}

fn domainname(lab: &Lab) -> Result<()> {
    let output = lab.script("cat /proc/sys/kernel/domainname", |bundle| {
        bundle.set("/domainname", json!("example.org"));
        Ok(())
    })?;
    same("domainname", "example.org", &output)
}
