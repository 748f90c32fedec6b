//! Golden plans: each directory of `tests/golden` is a container on a host, and the plan it must get.
//!
//! ```text
//!   config.json           the container
//!   host.toml             the host; missing: golden/host.toml
//!   configuration.toml    the configuration file; missing: the defaults
//!   case.toml             options of the command line, what the sources of bind mounts are, disks of the host; may be missing
//!   plan.json             what comes out; long filters are shortened to their length and hash
//! ```
//!
//! After a change that is meant, write them anew with `UPDATE_GOLDEN=1 cargo test -p sandbox --test golden` and read the difference.

use host_check::facts::HostFacts;
use machine_spec::mini_os::MiniOs;
use sandbox::bundle::{Bundle, HostDisk, Sources};
use sandbox::configuration::Configuration;
use sandbox::plan::{Inputs, PlanOptions, plan};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    facts: HostFacts,
    mini_os: MiniOs,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Case {
    systemd_cgroup: bool,
    require_kvm: bool,
    sources: Sources,
    disks: Vec<HostDisk>,
}

/// Instructions up to which a filter is shown whole.
const SHOWN: usize = 80;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let text = fs::read_to_string(path).ok()?;
    Some(toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn planned(dir: &Path) -> Value {
    let host: Host = read(&dir.join("host.toml")).or_else(|| read(&golden().join("host.toml"))).unwrap();
    let case: Case = read(&dir.join("case.toml")).unwrap_or_default();
    let mut bundle =
        Bundle::new("/bundle".into(), &fs::read(dir.join("config.json")).unwrap(), case.sources).unwrap();
    bundle.disks = case.disks;
    let configuration = match fs::read_to_string(dir.join("configuration.toml")) {
        Ok(text) => Configuration::parse(&text, Path::new("/etc/configuration.toml")).unwrap(),
        Err(_) => Configuration::default(),
    };
    let configuration = configuration.for_bundle(&bundle).unwrap();
    let mini_os = configuration.mini_os(host.mini_os, |_| Ok(4 << 20)).unwrap();
    let options = PlanOptions {
        systemd_cgroup: case.systemd_cgroup,
        require_kvm: case.require_kvm,
        stage: "/run/cor/golden/stage".into(),
        neighbours: Vec::new(),
    };
    let inputs = Inputs {
        id: "golden",
        bundle: &bundle,
        configuration: &configuration,
        facts: &host.facts,
        mini_os: &mini_os,
        options: &options,
    };
    let plan = plan(&inputs).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(
        serde_json::from_str::<sandbox::plan::SandboxPlan>(&text).unwrap(),
        plan,
        "must survive its JSON form"
    );
    let mut value = serde_json::to_value(&plan).unwrap();
    shorten(&mut value);
    value
}

/// Filters: one instruction a line is too long to read, so each becomes a text; long ones a summary.
fn shorten(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(program)) = fields.get_mut("program") {
                let lines: Vec<Value> = program.iter().map(|i| i.to_string().into()).collect();
                let hash = Sha256::digest(serde_json::to_vec(&lines).unwrap());
                let hash: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
                let summary = json!(format!("{} instructions, sha256 {hash}..", lines.len()));
                let short = if lines.len() > SHOWN { summary } else { lines.into() };
                fields.insert("program".into(), short);
            }
            fields.values_mut().for_each(shorten);
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        _ => {}
    }
}

#[test]
fn every_case_gets_its_plan() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut cases: Vec<_> =
        fs::read_dir(golden()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 12, "only {} cases", cases.len());
    let mut different = Vec::new();
    for dir in cases {
        let text = serde_json::to_string_pretty(&planned(&dir)).unwrap() + "\n";
        let path = dir.join("plan.json");
        if update {
            fs::write(&path, text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            different.push(dir.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    assert!(different.is_empty(), "plans differ: {different:?}; see the head of this file");
}

#[test]
fn the_written_specification_is_runcs() {
    let runcs: Value =
        serde_json::from_slice(&fs::read(golden().join("runc-spec/config.json")).unwrap()).unwrap();
    assert_eq!(sandbox::bundle::spec(), runcs);
    let rootless = fs::read(golden().join("../runc-spec-rootless.json")).unwrap();
    let rootless: Value = serde_json::from_slice(&rootless).unwrap();
    assert_eq!(sandbox::bundle::rootless_spec(0, 0), rootless);
}
