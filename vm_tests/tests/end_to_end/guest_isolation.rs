//! What a container's process is in the guest: namespaces, names, user, capabilities, system calls.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use vm_tests::{Command, Container, Sandbox, remove_namespace};

#[test]
fn the_program_is_the_first_process_of_namespaces_of_its_own() {
    let sandbox = Sandbox::new();
    let script = "echo pid $$; hostname; cat /proc/sys/kernel/domainname; ls /proc | grep '^[0-9]*$' | wc -l; \
        for n in pid ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done | sort -u | wc -l; \
        ipcs_id=$(readlink /proc/self/ns/ipc); echo ${ipcs_id#ipc:}; cat /proc/self/cgroup";
    let output = sandbox.script(script, |spec| {
        spec["hostname"] = json!("named");
        spec["domainname"] = json!("example.org");
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
    });
    let lines = output.lines();
    assert_eq!(lines[..3], ["pid 1", "named", "example.org"]);
    assert!(lines[3].parse::<u32>().unwrap() <= 4, "{lines:?}");
    assert_eq!(lines[4], "5");
    assert_ne!(lines[5], "[4026531839]", "not the machine's IPC namespace");
    assert_eq!(lines[6], "0::/", "its control group is its root");
}

#[test]
fn the_hosts_namespaces_are_replaced_by_its_own_with_a_warning() {
    let sandbox = Sandbox::new();
    let output = sandbox.script("hostname", |spec| {
        spec.as_object_mut().unwrap().remove("hostname");
        for kind in ["ipc", "uts"] {
            remove_namespace(spec, kind);
        }
    });
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(output.text(), name.trim(), "a copy of the host's name");
    assert!(output.errors().contains("the host's ipc, uts was asked for"), "{output}");
}

#[test]
fn a_namespace_of_another_container_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        remove_namespace(spec, "ipc");
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "ipc", "path": "/proc/1/ns/ipc" }));
    });
    sandbox.run(&bundle).refused("/proc/1/ns/ipc");
    sandbox.assert_nothing_left();
}

#[test]
fn user_groups_and_umask_are_as_configured() {
    let sandbox = Sandbox::new();
    let output =
        sandbox.script("id -u; id -g; id -G; umask; touch /tmp/f; stat -c '%a %u %g' /tmp/f; pwd", |spec| {
            spec["process"]["user"] =
                json!({ "uid": 1000, "gid": 1000, "additionalGids": [2000, 3000], "umask": 0o27 });
            spec["process"]["cwd"] = json!("/home/user");
        });
    assert_eq!(output.lines(), ["1000", "1000", "1000 2000 3000", "0027", "640 1000 1000", "/home/user"]);
}

/// The five sets and no_new_privs out of /proc/self/status.
const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | awk '{print $1 $2}'";

#[test]
fn the_five_capability_sets_are_exactly_those_named() {
    let sandbox = Sandbox::new();
    let output = sandbox.script(STATUS, |spec| {
        spec["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]
        });
        spec["process"]["noNewPrivileges"] = json!(true);
        // Root gains its permitted set with each program; another user keeps what is ambient.
        spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    });
    let chown = "0000000000000001";
    let expected = [
        format!("CapInh:{chown}"),
        format!("CapPrm:{chown}"),
        format!("CapEff:{chown}"),
        "CapBnd:0000000000002021".into(),
        format!("CapAmb:{chown}"),
        "NoNewPrivs:1".into(),
    ];
    assert_eq!(output.lines()[..6], expected);
}

#[test]
fn without_capabilities_root_can_do_little() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script(&format!("{STATUS}; mount -t tmpfs t /tmp; echo $?; chown 5 /tmp; echo $?")).change(
        |spec| {
            spec["process"].as_object_mut().unwrap().remove("capabilities");
        },
    );
    let lines = sandbox.run(&bundle).expect(0).lines();
    assert!(lines[..5].iter().all(|line| line.ends_with("0000000000000000")), "{lines:?}");
    assert_eq!(lines[lines.len() - 2..], ["1", "1"]);
}

#[test]
fn set_user_id_programs_work_unless_new_privileges_are_forbidden() {
    let sandbox = Sandbox::new();
    for (forbidden, uid) in [(false, "0"), (true, "1000")] {
        let bundle = sandbox.bundle();
        // busybox drops its set-user-id right itself, so the copy has another program's name: `id` in a dynamic linker's care.
        bundle.host_program("/usr/bin/id", "host-id");
        let program = bundle.rootfs("/bin/host-id");
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
        bundle.program(&["host-id", "-u"]).change(|spec| {
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            spec["process"]["noNewPrivileges"] = json!(forbidden);
        });
        assert_eq!(sandbox.run(&bundle).expect(0).text(), uid);
    }
}

#[test]
fn oom_score_and_sysctls_are_set() {
    let sandbox = Sandbox::new();
    let script = "cat /proc/self/oom_score_adj /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward /proc/sys/vm/swappiness /proc/sys/fs/mqueue/msg_max";
    let output = sandbox.script(script, |spec| {
        spec["process"]["oomScoreAdj"] = json!(321);
        spec["linux"]["sysctl"] = json!({
            "kernel.shmmax": "12345678", "net.ipv4.ip_forward": "1", "vm.swappiness": "17", "fs.mqueue.msg_max": "55"
        });
    });
    assert_eq!(output.lines(), ["321", "12345678", "1", "17", "55"]);
}

#[test]
fn a_sysctl_that_the_kernel_does_not_have_fails_with_its_name() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| spec["linux"]["sysctl"] = json!({ "net.ipv4.no_such": "1" }));
    sandbox.run(&bundle).refused("net/ipv4/no_such");
    sandbox.assert_nothing_left();
}

/// A filter that allows everything but what `rules` say.
fn filter(spec: &mut Value, rules: Value) {
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": rules
    });
}

#[test]
fn seccomp_refuses_with_an_error_or_kills_and_looks_at_arguments() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        let equal = |index: u32| json!([{ "index": index, "value": 0o777, "op": "SCMP_CMP_EQ" }]);
        filter(spec, json!([
            { "names": ["mkdir", "mkdirat", "no_such_system_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
            { "names": ["rmdir"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": equal(1) },
            { "names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": equal(2) },
            { "names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS" },
        ]));
    });
    let container = sandbox.start(&bundle);
    // The container's own process has it, and one that joins has it too.
    assert_eq!(container.sh("awk '/^Seccomp:/ {print $2}' /proc/1/status /proc/self/status"), "2\n2");
    let fails = |script: &str, words: &str| {
        let output = container.exec(&["sh", "-c", script]).run();
        assert!(output.code == 1 && output.errors().contains(words), "{output}");
    };
    fails("mkdir /new", "No space left on device");
    fails("rmdir /home", "Operation not permitted");
    container.sh("touch /file; chmod 700 /file; stat -c %a /file");
    fails("chmod 777 /file", "Operation not permitted");
    container.exec(&["hostname", "other"]).run().expect(159);
}

#[test]
fn seccomp_that_allows_only_what_is_named_lets_the_program_run() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("echo allowed; mkdir /x || echo refused").change(|spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "action": "SCMP_ACT_ALLOW", "names": [
                "access", "arch_prctl", "brk", "chdir", "clone", "close", "dup2", "dup3", "execve", "exit", "exit_group", "fcntl",
                "fork", "fstat", "futex", "getcwd", "getegid", "geteuid", "getgid", "getpgrp", "getpid", "getppid", "getrandom",
                "getuid", "ioctl", "lseek", "lstat", "mmap", "mprotect", "munmap", "newfstatat", "open", "openat", "poll",
                "prctl", "prlimit64", "read", "readlink", "readlinkat", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
                "set_robust_list", "set_tid_address", "setgid", "setgroups", "setuid", "stat", "uname", "vfork", "wait4", "write",
                "writev", "umask", "time", "clock_gettime", "sysinfo", "getdents64"
            ] }]
        });
    });
    let output = sandbox.run(&bundle).expect(0);
    assert_eq!(output.lines(), ["allowed", "refused"], "{output}");
}

#[test]
fn a_filter_that_asks_for_a_listener_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        filter(spec, json!([{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]));
        spec["linux"]["seccomp"]["listenerPath"] = json!("/run/listener.sock");
    });
    sandbox.run(&bundle).refused("seccomp");
}

#[test]
fn a_user_namespace_maps_ids_onto_the_files_owners() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    Command::new("chown").args(["-R", "-h", "100000:100000"]).arg(bundle.rootfs("/")).ok();
    bundle.change(|spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        for map in ["uidMappings", "gidMappings"] {
            spec["linux"][map] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        }
    });
    let container = sandbox.start(&bundle);
    assert_eq!(container.sh("id -u; awk '{print $1, $2, $3}' /proc/self/uid_map"), "0\n0 100000 65536");
    assert_eq!(
        container.sh("stat -c '%u %g' /bin/busybox; touch /made; chown 7:8 /made; stat -c '%u %g' /made"),
        "0 0\n7 8"
    );
    let made = fs::metadata(bundle.rootfs("/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_007, 100_008));
    assert_eq!(
        container
            .sh("echo x > /dev/null && head -c 3 /dev/zero | wc -c; mount -t tmpfs t /tmp && echo mounted"),
        "3\nmounted"
    );
    assert_eq!(container.exec(&["sh", "-c", "echo 1 > /proc/sys/vm/drop_caches"]).run().code, 1);
}

#[test]
fn masked_paths_are_hidden_and_readonly_paths_are_readonly() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.file("/secret/file", "secret", 0o644).file("/secret-file", "secret", 0o644).file(
        "/fixed/file",
        "fixed",
        0o644,
    );
    bundle.change(|spec| {
        spec["linux"]["maskedPaths"] = json!(["/secret", "/secret-file", "/proc/kcore", "/no/such"]);
        spec["linux"]["readonlyPaths"] = json!(["/fixed", "/proc/sys", "/no/such"]);
    });
    let container = sandbox.start(&bundle);
    assert_eq!(
        container.sh(
            "ls /secret | wc -l; cat /secret-file | wc -c; cat /fixed/file; head -c 1 /proc/kcore | wc -c"
        ),
        "0\n0\nfixed0"
    );
    for script in
        ["echo x > /secret/new", "echo x > /fixed/file", "echo 1 > /proc/sys/kernel/shmmax", "rm /fixed/file"]
    {
        let output = container.exec(&["sh", "-c", script]).run().expect(1);
        assert!(output.errors().contains("Read-only file system"), "{output}");
    }
    assert_eq!(fs::read_to_string(bundle.rootfs("/fixed/file")).unwrap(), "fixed");
}

#[test]
fn the_container_has_a_network_of_its_own_with_loopback() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    assert_eq!(
        container.sh("cd /sys/class/net; ls -d */; ping -c 1 -W 5 127.0.0.1 > /dev/null && echo ping"),
        "lo/\nping"
    );
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(
        namespace(container.pid()),
        fs::read_link("/proc/self/ns/net").unwrap(),
        "the keeper owns one on the host"
    );
}

#[test]
fn a_network_namespace_given_by_path_is_joined_on_the_host() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let mut holder = Command::new("unshare")
        .args(["--net", "sleep", "1000"])
        .env("CLEAR_TEST_TAG", sandbox.tag())
        .std()
        .spawn()
        .unwrap();
    let path = format!("/proc/{}/ns/net", holder.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    vm_tests::until("unshare", || (fs::read_link(&path).is_ok_and(|ns| ns != own)).then_some(()));
    bundle.change(|spec| {
        remove_namespace(spec, "network");
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "network", "path": path }));
    });
    let container = sandbox.start(&bundle);
    let joined = fs::read_link(format!("/proc/{}/ns/net", container.pid())).unwrap();
    assert_eq!(joined, fs::read_link(&path).unwrap());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn the_keeper_is_in_the_containers_control_group_on_the_host() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/inner", sandbox.tag()));
        spec["linux"]["resources"]["memory"]["limit"] = json!(100 << 20);
    });
    let container = sandbox.start(&bundle);
    for pid in [container.pid(), container.vmm_pid()] {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(groups.contains(&format!(":/{}/inner", sandbox.tag())), "{groups}");
    }
    let pid = container.pid();
    container.kill("KILL");
    Container::reap(pid);
    container.delete();
    sandbox.assert_nothing_left();
}
