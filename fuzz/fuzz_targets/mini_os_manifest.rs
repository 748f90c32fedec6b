//! The manifest of a stored mini-OS, and a container planned to boot it.
#![no_main]

use fuzz::{check_message, facts};
use libfuzzer_sys::fuzz_target;
use machine_spec::mini_os::MiniOs;
use sandbox::bundle::{Bundle, Sources, spec};
use sandbox::configuration::Configuration;
use sandbox::plan::{Inputs, PlanOptions, plan};
use std::sync::LazyLock;

static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| {
    let text = spec().to_string();
    Bundle::new("/bundle".into(), text.as_bytes(), Sources::new()).expect("`cor spec` is right")
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = serde_json::from_slice::<MiniOs>(bytes) else { return };
    let text = serde_json::to_vec(&manifest).expect("a manifest has a JSON form");
    assert_eq!(serde_json::from_slice::<MiniOs>(&text).expect("what is written can be read"), manifest);
    let configuration = Configuration::default();
    let mini_os = match configuration.mini_os(manifest, |_| Ok(4 << 20)) {
        Ok(mini_os) => mini_os,
        Err(error) => return check_message(&error.to_string()),
    };
    let options =
        PlanOptions { systemd_cgroup: false, require_kvm: false, stage: "/run/cor/fuzz/stage".into(), neighbours: Vec::new() };
    let inputs = Inputs {
        id: "fuzz",
        bundle: &BUNDLE,
        configuration: &configuration,
        facts: &facts(),
        mini_os: &mini_os,
        options: &options,
    };
    match plan(&inputs) {
        Ok(plan) => plan.machine.validate().expect("a planned machine can be"),
        Err(error) => check_message(&error.to_string()),
    }
});
