//! Commands for people and engines that run no container: features, spec, check, env, config, plan, trace, why, completion.

use serde_json::Value;
use std::fs;
use vm_tests::{Command, Programs, Sandbox};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn features_are_those_of_the_specification() {
    let sandbox = Sandbox::new();
    let features = json(&sandbox.cor(&["features"]).ok());
    assert_eq!(
        (features["ociVersionMin"].as_str(), features["ociVersionMax"].as_str()),
        (Some("1.0.0"), Some("1.3.0"))
    );
    let has = |pointer: &str, word: &str| {
        features.pointer(pointer).unwrap().as_array().unwrap().contains(&word.into())
    };
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        assert!(has("/hooks", hook));
    }
    assert!(has("/mountOptions", "rro") && has("/mountOptions", "tmpcopyup"));
    assert!(has("/linux/namespaces", "user") && has("/linux/capabilities", "CAP_NET_ADMIN"));
    assert!(
        has("/linux/seccomp/actions", "SCMP_ACT_ERRNO") && !has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY")
    );
}

#[test]
fn the_version_is_what_engines_parse() {
    let lines = Sandbox::new().cor(&["--version"]).run().expect(0).lines();
    assert!(lines[0].starts_with("cor version ") || lines[0].starts_with("cor "), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("spec: 1.")), "{lines:?}");
}

#[test]
fn spec_writes_a_configuration_that_runs_and_overwrites_none() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    sandbox.cor(&["spec", "--bundle"]).arg(bundle.path()).run().refused("exists");
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    sandbox.cor(&["spec"]).in_directory(bundle.path()).ok();
    let spec = bundle.spec();
    assert_eq!(
        (&spec["process"]["args"][0], &spec["process"]["terminal"]),
        (&Value::from("sh"), &Value::from(true))
    );
    let mut terminal = vm_tests::Terminal::run(&sandbox.run_command(&bundle), 24, 80);
    terminal.write("touch /x || echo read''only; exit 3\n");
    terminal.expect("readonly");
    assert_eq!(terminal.wait(), 3);
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    sandbox.cor(&["spec", "--rootless"]).in_directory(bundle.path()).ok();
    assert_eq!(bundle.spec()["linux"]["uidMappings"][0]["hostID"], 0);
}

#[test]
fn check_judges_each_requirement_with_the_fix() {
    let sandbox = Sandbox::new();
    let output = sandbox.cor(&["check"]).run().expect(0);
    assert!(output.text().contains("containers can run here"), "{output}");
    let report = json(&sandbox.cor(&["check", "--json"]).ok());
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() > 10, "{report}");
    for finding in findings {
        let text = |key: &str| finding[key].as_str().unwrap_or_default();
        assert!(["pass", "warn", "fail"].contains(&text("level")), "{finding}");
        assert!(!text("name").is_empty() && !text("what").is_empty(), "{finding}");
        assert!(text("level") != "fail" || !text("fix").is_empty(), "{finding}");
    }
    sandbox.configure("[mini_os]\nname = \"no-such\"\n");
    let output = sandbox.cor(&["check"]).run().expect(1);
    assert!(output.text().contains("FAIL") && output.text().contains("clear-mini-os build"), "{output}");
}

#[test]
fn env_says_what_is_in_use() {
    let sandbox = Sandbox::new();
    let env = json(&sandbox.cor(&["env"]).ok());
    assert_eq!(env["cor"]["root"].as_str(), sandbox.root().to_str());
    assert_eq!(
        env["configuration"]["values"]["mini_os"]["name"].as_str(),
        Some(Programs::get().mini_os.as_str())
    );
    assert!(env["miniOs"]["inUse"]["release"].is_string(), "{env}");
    assert!(env["host"]["facts"].is_object());
}

#[test]
fn config_shows_values_and_where_they_come_from() {
    let sandbox = Sandbox::new();
    sandbox.configure_more("[machine]\ndefault_vcpus = 2\n");
    let shown = sandbox.cor(&["config", "--show"]).ok();
    let line = shown.lines().find(|line| line.starts_with("default_vcpus")).unwrap();
    assert!(line.contains('2') && line.contains("configuration.toml"), "{line}");
    assert!(shown.contains("default_memory_mib"));
    let default = sandbox.path().join("default.toml");
    fs::write(&default, sandbox.cor(&["config", "--default"]).ok()).unwrap();
    sandbox.cor(&["config", "--show", "--config", default.to_str().unwrap()]).ok();
}

#[test]
fn plan_is_the_same_each_time_and_does_nothing() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let plan = || sandbox.cor(&["plan", "--bundle"]).arg(bundle.path()).arg("p").ok();
    let first = plan();
    assert_eq!(first, plan());
    for part in ["host", "machine", "guest", "hooks"] {
        assert!(!json(&first)[part].is_null(), "{part} in {first}");
    }
    sandbox.assert_nothing_left();
    assert!(!sandbox.root().exists());
}

#[test]
fn trace_and_why_know_containers_that_are_gone() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    sandbox.cor(&["trace"]).run().refused("no timeline");
    sandbox.cor(&["why"]).run().refused("no failure");
    bundle.program(&["true"]);
    let id = sandbox.id();
    sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(&id).run().expect(0);
    let trace = json(&sandbox.cor(&["trace", "--json"]).ok());
    assert_eq!(trace["id"].as_str(), Some(id.as_str()));
    let stamps: Vec<_> = trace["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["name"].as_str().unwrap(), s["at_us"].as_u64().unwrap()))
        .collect();
    assert!(stamps.is_sorted_by_key(|(_, at)| *at), "{stamps:?}");
    for name in [
        "keeper",
        "VMM started",
        "guest: init",
        "agent called",
        "created",
        "program started",
        "program ended",
        "machine ended",
    ] {
        assert!(stamps.iter().any(|(known, _)| *known == name), "{name} in {stamps:?}");
    }
    assert!(sandbox.cor(&["trace", &id]).ok().contains("program started"));
    sandbox.cor(&["why", &id]).run().refused("no failure");
    bundle.program(&["no-such-program"]);
    let failed = sandbox.id();
    sandbox.cor(&["run", "--bundle"]).arg(bundle.path()).arg(&failed).run().expect(1);
    let why = sandbox.cor(&["why"]).ok();
    assert!(why.contains(&failed) && why.contains("no-such-program"), "{why}");
    let why = json(&sandbox.cor(&["why", "--json", &failed]).ok());
    assert!(why["failure"]["phase"].is_string(), "{why}");
}

#[test]
fn completions_and_help_are_there_for_every_command() {
    let sandbox = Sandbox::new();
    let script = sandbox.path().join("completion.bash");
    fs::write(&script, sandbox.cor(&["completion", "bash"]).ok()).unwrap();
    Command::new("bash").arg("-n").arg(&script).ok();
    for shell in ["zsh", "fish"] {
        assert!(sandbox.cor(&["completion", shell]).ok().contains("cor"));
    }
    let help = sandbox.cor(&["--help"]).ok();
    let commands = [
        "create",
        "start",
        "state",
        "kill",
        "delete",
        "run",
        "exec",
        "list",
        "ps",
        "pause",
        "resume",
        "update",
        "events",
        "spec",
        "features",
        "try",
        "check",
        "env",
        "plan",
        "trace",
        "why",
        "config",
        "completion",
    ];
    for command in commands {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in\n{help}");
        assert!(sandbox.cor(&[command, "--help"]).ok().contains("Usage:"));
    }
}

#[test]
fn clear_mini_os_lists_and_verifies_what_is_booted() {
    let programs = Programs::get();
    let mini_os = |args: &[&str]| Command::new(programs.clear_mini_os()).args(args).run().expect(0).text();
    assert!(mini_os(&["list"]).contains(&programs.mini_os));
    mini_os(&["verify", &programs.mini_os]);
}
