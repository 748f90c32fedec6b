//! What is refused, each with its sentence; and configurations nobody meant, which must be refused as tidily.

use guest_protocol::message::Step;
use host_check::facts::{Cgroups, HostFacts, Kvm, Qemu};
use machine_spec::mini_os::{Features, File, MiniOs};
use proptest::prelude::*;
use sandbox::bundle::{Bundle, HostDisk, SourceKind, Sources, bind_source, parse_process, spec};
use sandbox::configuration::Configuration;
use sandbox::plan::{HostStep, Inputs, Neighbour, PlanOptions, SandboxPlan, plan, process_for_exec};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn facts() -> HostFacts {
    HostFacts {
        arch: "x86_64".into(),
        cpus: 4,
        memory_total_mib: 8000,
        memory_available_mib: 6000,
        kvm: Kvm::Unusable("the probe guest did not run".into()),
        clear_vmm: None,
        hostname: "host".into(),
        tsc_khz: None,
        pasta: None,
        default_route: true,
        qemu: Some(Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version: (10, 0) }),
        cgroups: Cgroups::V2("/sys/fs/cgroup".into()),
    }
}

fn mini_os() -> MiniOs {
    let file = |name: &str| File { path: Path::new("/store").join(name), sha256: "aa".into(), size: 4 << 20 };
    MiniOs {
        version: 1,
        origin: "debian".into(),
        arch: "x86_64".into(),
        release: "6.12".into(),
        kernel: file("vmlinux"),
        initramfs: Some(file("initramfs.cpio")),
        image: None,
        features: Features::default(),
    }
}

/// A host, a configuration file and a command line, changed by each test as it likes.
struct Setting {
    id: String,
    configuration: Configuration,
    facts: HostFacts,
    mini_os: MiniOs,
    options: PlanOptions,
    /// Every source of a bind mount exists, as a directory, and every block device that is listed.
    sources: bool,
    /// Loop devices of the host, by minor.
    disks: Vec<u32>,
}

impl Setting {
    fn new() -> Self {
        let options = PlanOptions {
            systemd_cgroup: false,
            require_kvm: false,
            stage: "/run/cor/x/stage".into(),
            neighbours: Vec::new(),
        };
        let (configuration, facts, mini_os) = (Configuration::default(), facts(), mini_os());
        Setting { id: "x".into(), configuration, facts, mini_os, options, sources: false, disks: Vec::new() }
    }

    /// One where as little as possible is refused.
    fn generous() -> Self {
        let mut setting = Setting { sources: true, ..Setting::new() };
        setting.facts.cpus = 64;
        let closed = ["kernel", "initramfs", "image", "qemu", "kernel_parameters", "accelerator"];
        setting.configuration.security.allowed_annotations.extend(closed.map(String::from));
        setting
    }

    /// Everything from the text of a config.json to the plan; every error as its text.
    fn run(&self, config: &Value) -> Result<SandboxPlan, String> {
        let text = serde_json::to_vec(config).unwrap();
        let mut bundle = Bundle::new("/bundle".into(), &text, Sources::new()).map_err(|e| e.to_string())?;
        if self.sources {
            let binds = bundle.spec.mounts().iter().flatten().filter_map(|m| bind_source(&bundle.dir, m));
            bundle.sources = binds.map(|path| (path, SourceKind::Directory { tmpfs_bytes: None })).collect();
            bundle.disks = all_disks(&bundle);
        }
        for &minor in &self.disks {
            let node = PathBuf::from(format!("/dev/loop{minor}"));
            bundle.sources.insert(node.clone(), SourceKind::Block { major: 7, minor });
            bundle.disks.push(HostDisk { major: 7, minor, node, readonly: false });
        }
        let configuration = self.configuration.for_bundle(&bundle).map_err(|e| e.to_string())?;
        let inputs = Inputs {
            id: &self.id,
            bundle: &bundle,
            configuration: &configuration,
            facts: &self.facts,
            mini_os: &self.mini_os,
            options: &self.options,
        };
        plan(&inputs).map_err(|e| e.to_string())
    }
}

/// A disk for every block device in the bundle's list.
fn all_disks(bundle: &Bundle) -> Vec<HostDisk> {
    let devices = bundle.spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    let number = |value: i64| u32::try_from(value).ok();
    let disk = |(major, minor)| HostDisk { major, minor, node: "/dev/d".into(), readonly: false };
    devices
        .unwrap_or_default()
        .iter()
        .filter_map(|device| Some(disk((number(device.major())?, number(device.minor())?))))
        .collect()
}

/// The default specification with one value put in, objects made on the way.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = spec();
    let mut place = &mut config;
    for part in pointer.split('.') {
        place = match part.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[part],
        };
    }
    *place = value;
    config
}

#[test]
fn the_default_specification_has_a_plan() {
    let plan = Setting::new().run(&spec()).unwrap();
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    assert!(plan.warnings[0].contains("the probe guest did not run"));
    assert_eq!(plan.boot_timeout_s, 120);
}

/// A configuration with one block device in its list, and these rules.
fn with_disk(rules: Value) -> Value {
    let mut config = with("linux.devices", json!([{"path": "/dev/d", "type": "b", "major": 8, "minor": 0}]));
    config["linux"]["resources"]["devices"] = rules;
    config
}

#[test]
fn a_user_space_network_is_for_new_namespaces_of_hosts_that_can_make_one() {
    let mut setting = Setting::new();
    setting.configuration.network.user = true;
    let steps = |setting: &Setting, config: &Value| {
        let plan = setting.run(config)?;
        Ok::<_, String>(plan.host.iter().filter(|step| matches!(step, HostStep::UserNetwork { .. })).count())
    };
    let refused = steps(&setting, &spec()).unwrap_err();
    assert!(
        refused.contains("pasta is not in the search path; install it (Debian: apt-get install passt)"),
        "{refused}"
    );
    let by_path =
        with("linux.namespaces", json!([{"type": "pid"}, {"type": "network", "path": "/run/netns/n"}]));
    assert_eq!(steps(&setting, &by_path), Ok(0), "somebody else's namespace is left alone");
    setting.facts.pasta = Some("/usr/bin/pasta".into());
    assert_eq!(steps(&setting, &spec()), Ok(1));
    setting.facts.default_route = false;
    let refused = steps(&setting, &spec()).unwrap_err();
    assert!(refused.contains("no default route") && refused.contains("--network none"), "{refused}");
    setting.configuration.network.model = sandbox::configuration::NetworkModel::None;
    assert_eq!(steps(&setting, &spec()), Ok(0));
}

#[test]
fn a_disk_must_exist_where_something_may_open_it() {
    let allowed = with_disk(json!([{"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rw"}]));
    let refused = Setting::new().run(&allowed).unwrap_err();
    assert!(
        refused.contains("linux.devices[0]: the host has no block device \"/dev/d\" (8:0); "),
        "{refused}"
    );
    for nothing in [json!([]), json!([{"allow": true, "type": "b", "major": 8, "minor": 0, "access": "m"}])] {
        let plan = Setting::new().run(&with_disk(nothing)).unwrap();
        assert!(
            !plan.guest.steps.iter().any(|step| matches!(step, Step::HostDisk(_))),
            "nothing may open it"
        );
    }
}

#[test]
fn the_last_rule_for_everything_counts() {
    let everything = |allow| json!({"allow": allow, "access": "rwm"});
    let all = with_disk(json!([everything(false), everything(true)]));
    let plan = Setting::new().run(&all).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.starts_with("linux.devices: 1 of 1 devices are the host's")),
        "{:?}",
        plan.warnings
    );
    let none = with_disk(json!([everything(true), everything(false)]));
    assert_eq!(Setting::new().run(&none).unwrap().warnings.len(), 1, "the one about emulation");
}

#[test]
fn a_bound_disk_must_be_allowed_and_fit_into_the_machine() {
    let disks = |count: u32, access: &str| {
        let mut setting = Setting::new();
        setting.disks = (0..count).collect();
        let bind = |n: u32| json!({"destination": format!("/dev/d{n}"), "source": format!("/dev/loop{n}"), "options": ["bind"]});
        let mut config = with_disk(json!([{"allow": true, "type": "b", "major": 7, "access": access}]));
        config["mounts"] = (0..count).map(bind).collect();
        setting.run(&config)
    };
    let refused = disks(1, "m").unwrap_err();
    assert!(
        refused.contains(
            "mounts[0].source: the device rules let nothing open block device \"/dev/loop0\" (7:0); allow it"
        ),
        "{refused}"
    );
    assert!(disks(16, "r").is_ok());
    let refused = disks(17, "r").unwrap_err();
    assert!(refused.contains("mounts[16].source: more than 16 block devices"), "{refused}");
}

#[test]
fn each_refusal_has_its_sentence() {
    let bind =
        |source: &str| json!([{"destination": "/d", "type": "bind", "source": source, "options": ["bind"]}]);
    let mount =
        |kind: &str, options: &[&str]| json!([{"destination": "/d", "type": kind, "options": options}]);
    let map =
        json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 9, "hostID": 50, "size": 1}]);
    let cases = [
        ("process", Value::Null, "process: missing; `create` already needs it"),
        ("process.args", json!([]), "process.args: must not be empty"),
        ("process.args", json!(["a\0b"]), "process.args[0]: contains a NUL byte"),
        ("process.cwd", json!("tmp"), "process.cwd: must be an absolute path"),
        ("process.env", json!(["A=b", "C"]), "process.env[1]: must have the form NAME=VALUE"),
        ("process.oomScoreAdj", json!(1001), "process.oomScoreAdj: must be -1000 to 1000"),
        (
            "process.consoleSize",
            json!({"height": 70000, "width": 1}),
            "process.consoleSize.height: must be at most 65535",
        ),
        ("process.user.umask", json!(4096), "process.user.umask: must be at most 0777"),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_X", "hard": 1, "soft": 1}]),
            "process.rlimits[0].type: unknown variant `RLIMIT_X`",
        ),
        (
            "process.ioPriority",
            json!({"class": "IOPRIO_CLASS_RT", "priority": 9}),
            "process.ioPriority.priority: must be 0 to 7",
        ),
        ("process.scheduler", json!({"policy": "SCHED_FIFO"}), "process.scheduler.priority: must be 1 to 99"),
        ("root.path", json!(""), "root.path: must not be empty"),
        ("hostname", json!("h".repeat(65)), "hostname: must have at most 64 bytes"),
        ("mounts", bind("/srv"), "mounts[0].source: mount source \"/srv\" does not exist"),
        (
            "mounts",
            mount("ext4", &[]),
            "mounts[0].type: file systems of type \"ext4\" have their data outside the machine; mount it on",
        ),
        ("mounts", mount("tmpfs", &["remount"]), "mounts[0].options: \"remount\" changes another mount"),
        ("mounts", mount("proc", &["tmpcopyup"]), "mounts[0].options: \"tmpcopyup\" is only for type tmpfs"),
        ("mounts", mount("tmpfs", &["idmap"]), "mounts[0].options: \"idmap\" needs uidMappings"),
        (
            "mounts",
            json!([{"destination": "/", "type": "tmpfs"}]),
            "mounts[0].destination: must not be the root",
        ),
        (
            "mounts",
            json!([{"destination": "/x/../..", "type": "tmpfs"}]),
            "mounts[0].destination: must not be the root",
        ),
        (
            "mounts",
            json!([{"destination": "/d", "type": "bind"}]),
            "mounts[0].type: file systems of type \"bind\"",
        ),
        (
            "linux.namespaces",
            json!([]),
            "linux.namespaces: no network namespace is given, which means the host's own network",
        ),
        (
            "linux.namespaces",
            json!([{"type": "network"}, {"type": "pid", "path": "/proc/7/ns/pid"}]),
            "linux.namespaces[1].path: the pid namespace",
        ),
        (
            "linux.namespaces",
            json!([{"type": "network"}, {"type": "network"}]),
            "linux.namespaces[1]: a second namespace of type network",
        ),
        (
            "linux.namespaces",
            json!([{"type": "pid"}, {"type": "network"}, {"type": "user"}]),
            "linux.namespaces: a user namespace needs",
        ),
        ("linux.namespaces", json!([{"type": "new"}]), "linux.namespaces[0].type: unknown variant `new`"),
        ("linux.uidMappings", map, "linux.uidMappings: maps are given, but no user namespace"),
        (
            "linux.timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets: offsets need a time namespace",
        ),
        (
            "linux.devices",
            json!([{"path": "/dev/nvram", "type": "c", "major": 10, "minor": 144}]),
            "linux.devices[0]: character device \"/dev/nvram\" (10:144) is the host's and cannot be in a virtual machine; remove it",
        ),
        (
            "linux.devices",
            json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]),
            "linux.devices[0].path: must be an absolute path",
        ),
        (
            "linux.resources.devices",
            json!([{"allow": true, "access": "x"}]),
            "linux.resources.devices[0].access: may only have",
        ),
        (
            "linux.resources.memory",
            json!({"limit": 10, "swap": 5}),
            "linux.resources.memory.swap: is memory and swap together",
        ),
        (
            "linux.resources.cpu",
            json!({"cpus": "x"}),
            "linux.resources.cpu.cpus: \"x\" must be a list such as 0-3,7",
        ),
        (
            "linux.resources.unified",
            json!({"../x.y": "1"}),
            "linux.resources.unified.../x.y: must be the name of a cgroup file",
        ),
        ("linux.cgroupsPath", json!("/"), "linux.cgroupsPath: must name a control group below the root"),
        ("linux.rootfsPropagation", json!("loose"), "linux.rootfsPropagation: \"loose\" is not supported"),
        (
            "linux.sysctl",
            json!({"kernel.hostname": "h"}),
            "linux.sysctl.kernel.hostname: the host name is set twice over; use hostname",
        ),
        ("linux.maskedPaths", json!(["proc"]), "linux.maskedPaths[0]: must be an absolute path"),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp: SCMP_ACT_NOTIFY asks a program on the host",
        ),
        (
            "linux.intelRdt",
            json!({"closID": "x"}),
            "linux.intelRdt: the host's cache allocation is not handed into machines; remove it",
        ),
        (
            "linux.netDevices",
            json!({"eth0": {}}),
            "linux.netDevices: network devices of the host cannot be moved",
        ),
        (
            "linux.memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            "linux.memoryPolicy: the machine has one memory node",
        ),
        ("windows", json!({"layerFolders": ["x"]}), "windows: this is a Linux host"),
        ("hooks", json!({"poststop": [{"path": "x"}]}), "hooks.poststop[0].path: must be an absolute path"),
        (
            "hooks",
            json!({"prestart": [{"path": "/x", "timeout": 0}]}),
            "hooks.prestart[0].timeout: must be greater than 0",
        ),
        ("annotations", json!({"io.clearcontainers.cpu": "1"}), "annotation io.clearcontainers.cpu: unknown"),
        (
            "vm",
            json!({"kernel": {"path": ""}, "hwConfig": {"vcpus": 64}}),
            "a machine with 64 vCPUs: 1 to 4 can be had; ask for fewer",
        ),
        (
            "vm",
            json!({"kernel": {"path": ""}, "hwConfig": {"memory": 1}}),
            "a machine with 1 MiB of memory: 48 to 8000 MiB",
        ),
    ];
    for (pointer, value, sentence) in cases {
        let error = Setting::new().run(&with(pointer, value.clone())).expect_err(pointer);
        let wanted = if sentence.starts_with("a machine") || sentence.starts_with("annotation") {
            sentence.to_string()
        } else {
            format!("config.json: {sentence}")
        };
        assert!(error.starts_with(&wanted), "{pointer} = {value}:\n  got  {error}\n  want {wanted}");
    }
}

/// Namespaces of a container of ours can be had by one other: by the first of its pod.
#[test]
fn of_a_pod_one_container_can_run() {
    let mut config = with(
        "linux.namespaces",
        json!([{"type": "pid"}, {"type": "network", "path": "/proc/70/ns/net"}, {"type": "ipc", "path": "/proc/70/ns/ipc"}, {"type": "uts", "path": "/proc/70/ns/uts"}]),
    );
    let mut setting = Setting::new();
    let stranger = setting.run(&config).unwrap_err();
    assert!(stranger.contains("linux.namespaces[2].path: the ipc namespace"), "{stranger}");
    setting.options.neighbours =
        vec![Neighbour { id: "pause".into(), pid: 70, sandbox: None, hostname: Some("pod".into()) }];
    let other = setting.run(&config).unwrap_err();
    assert!(other.contains("belongs to container \"pause\""), "{other}");
    config["annotations"] = json!({"io.kubernetes.cri-o.SandboxID": "pause"});
    config.as_object_mut().unwrap().remove("hostname");
    let plan = setting.run(&config).unwrap();
    assert!(plan.host.iter().any(|step| matches!(step, HostStep::Taps { take_over: true, .. })));
    assert_eq!(plan.hostname(), Some("pod"));
    let member = Neighbour { id: "first".into(), pid: 71, sandbox: Some("pause".into()), hostname: None };
    setting.options.neighbours.push(member);
    let second = setting.run(&config).unwrap_err();
    assert!(second.contains("container \"first\" of the same pod runs already"), "{second}");
}

#[test]
fn what_the_host_cannot_do_is_refused() {
    type Change = fn(&mut Setting);
    let cases: [(Change, &str); 11] = [
        (
            |s| s.options.require_kvm = true,
            "running with KVM: the probe guest did not run; `cor check` tells",
        ),
        (|s| s.configuration = toml("[machine]\naccelerator = \"kvm\""), "running with KVM: the probe guest"),
        (
            |s| s.configuration = toml("[machine]\nchassis = \"microvm\""),
            "a machine with chassis microvm: kernel 6.12 does not find",
        ),
        (
            |s| s.mini_os.initramfs = None,
            "booting mini-OS debian: it has no initramfs, and its kernel cannot mount",
        ),
        (
            |s| s.configuration = toml("[machine]\nroot = \"disk\""),
            "booting mini-OS debian: it has no image, or its kernel cannot mount it",
        ),
        (
            |s| s.mini_os.arch = "aarch64".into(),
            "booting mini-OS debian: it is for aarch64, this host is x86_64; build one",
        ),
        (|s| s.facts.qemu = None, "running a machine: no QEMU was found on this host; install it"),
        (
            |s| s.facts.memory_available_mib = 40,
            "starting a machine, which needs at least 48 MiB of memory: the host has 40 MiB",
        ),
        (|s| s.id = "../x".into(), "container id \"../x\": an id has 1 to 200 letters"),
        (|s| s.id = "a".repeat(5000), "container id \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\": an id has"),
        (|s| s.id = "a\nb".into(), "container id \"a\\nb\": an id has"),
    ];
    for (change, sentence) in cases {
        let mut setting = Setting::new();
        change(&mut setting);
        let error = setting.run(&spec()).unwrap_err();
        assert!(error.starts_with(sentence), "\n  got  {error}\n  want {sentence}");
    }
}

fn toml(text: &str) -> Configuration {
    Configuration::parse(text, Path::new("/c.toml")).unwrap()
}

#[test]
fn a_relaxed_filter_is_warned_about() {
    let mut setting = Setting::new();
    setting.configuration = toml("[security]\nguest_seccomp = false");
    let plan = setting.run(&with("linux.seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.contains("security.guest_seccomp is false")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn exec_gets_the_containers_filter_and_capabilities_unless_it_names_its_own() {
    let container =
        Setting::new().run(&with("linux.seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))).unwrap();
    let (given, _) =
        parse_process(br#"{"args":["id"],"cwd":"/","user":{"uid":5,"gid":6},"terminal":true}"#).unwrap();
    let io = guest_protocol::message::Io { stdin: Some(2000), stdout: Some(2001), stderr: Some(2002) };
    let (process, warnings) = process_for_exec(&given, &container, io).unwrap();
    assert!(warnings.is_empty());
    assert!(process.seccomp.is_some());
    assert_eq!(process.capabilities.unwrap().bounding, 1 << 5 | 1 << 10 | 1 << 29);
    assert_eq!((process.uid, process.gid, process.io.stdin, process.io.stderr), (5, 6, Some(2000), None));
    let (given, _) =
        parse_process(br#"{"args":["id"],"cwd":"/","user":{},"capabilities":{"bounding":["CAP_CHOWN"]}}"#)
            .unwrap();
    assert_eq!(process_for_exec(&given, &container, io).unwrap().0.capabilities.unwrap().bounding, 1);
    let wrong = parse_process(br#"{"args":"id","cwd":"/","user":{}}"#).unwrap_err().to_string();
    assert_eq!(wrong, "config.json: process.args: invalid type: string \"id\", expected a sequence");
}

/// Configurations to start from: those of the golden plans, so that every feature is there to be broken.
fn configurations() -> Vec<Value> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(golden).unwrap().map(|e| e.unwrap().path().join("config.json"));
    let mut paths: Vec<_> = entries.filter(|p| p.exists()).collect();
    paths.sort();
    paths.iter().map(|p| serde_json::from_slice(&std::fs::read(p).unwrap()).unwrap()).collect()
}

fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![-1i64, 0, 1, i64::MAX, i64::MIN, 1 << 32, 65536]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "/",
            "..",
            "a\nb\u{1b}[2J",
            "\0",
            "a=b",
            "/../..",
            ":::",
            "%s",
            "x.y.z",
            "rbind"
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[]]])),
        Just(json!([{"a": null}, "b", 3])),
    ]
}

/// Replaces, removes or doubles the `steps`-th value met on a walk through the document.
fn damage(value: &mut Value, steps: &mut usize, how: u8, with: &Value) -> bool {
    if *steps == 0 {
        *value = with.clone();
        return true;
    }
    *steps -= 1;
    match value {
        Value::Object(fields) => {
            for key in fields.keys().cloned().collect::<Vec<_>>() {
                if *steps == 0 && how == 1 {
                    fields.remove(&key);
                    return true;
                }
                if *steps == 0 && how == 2 {
                    let moved = fields.remove(&key).unwrap_or_default();
                    fields.insert(with.as_str().unwrap_or("x").to_string(), moved);
                    return true;
                }
                if damage(&mut fields[&key], steps, how, with) {
                    return true;
                }
            }
            false
        }
        Value::Array(items) => {
            if *steps == 0 && how == 3 && !items.is_empty() {
                items.push(items[0].clone());
                return true;
            }
            items.iter_mut().any(|item| damage(item, steps, how, with))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn damaged_configurations_give_a_plan_or_one_line(
        which in any::<prop::sample::Index>(),
        damages in prop::collection::vec((0usize..700, 0u8..4, hostile()), 1..4),
    ) {
        let mut config = which.get(&configurations()).clone();
        for (mut steps, how, with) in damages {
            damage(&mut config, &mut steps, how, &with);
        }
        match Setting::generous().run(&config) {
            Ok(plan) => {
                prop_assert!(plan.warnings.iter().all(|w| !w.contains(char::is_control)), "{:?}", plan.warnings);
                prop_assert!(plan.machine.validate().is_ok());
                let text = serde_json::to_string(&plan).unwrap();
                prop_assert_eq!(serde_json::from_str::<SandboxPlan>(&text).unwrap(), plan);
            }
            Err(line) => prop_assert!(!line.is_empty() && !line.contains(char::is_control), "{:?}", line),
        }
    }

    #[test]
    fn bytes_that_are_no_configuration_give_one_line(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let error = Bundle::new("/b".into(), &bytes, Sources::new()).err().map(|e| e.to_string());
        prop_assert!(error.is_none_or(|line| !line.contains(char::is_control)));
    }
}

#[test]
fn undamaged_configurations_have_plans() {
    // Guards the property above: if the starting points were refused, it would test little.
    for config in configurations() {
        if let Err(error) = Setting::generous().run(&config) {
            panic!("{error}\n{config:#}");
        }
    }
}
