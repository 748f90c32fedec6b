//! The program: its streams, terminal, user, environment, rights.

use crate::tests;
use std::fs;
use vm_tests::Terminal;
use vm_tests::engine::{Engine, is_ours};

tests![
    streams_and_exit_code_are_the_programs,
    codes_say_what_could_not_be_run,
    a_terminal_is_one_and_follows_its_size,
    init_is_the_first_process,
    user_groups_directory_and_environment_are_given,
    capabilities_are_added_and_dropped,
    new_privileges_can_be_forbidden,
    a_seccomp_profile_holds,
    limits_of_resources_are_set,
    sysctls_and_names_are_the_containers_own,
    privileged_has_every_right_in_the_machine,
];

fn streams_and_exit_code_are_the_programs(engine: &Engine) {
    let output = engine.script(&[], "echo out; echo err >&2; exit 7").expect(7);
    assert_eq!((output.text().as_str(), output.errors().trim_end()), ("out", "err"));
    assert_eq!(engine.run(&["-i"], &["cat"]).input("to it\n").ok(), "to it");
}

fn codes_say_what_could_not_be_run(engine: &Engine) {
    let none = engine.run(&[], &["/none"]).run().expect(127);
    assert!(none.errors().contains("no such file") || none.errors().contains("not found"), "{none}");
    let none = engine.run(&[], &["none"]).run().expect(127);
    assert!(none.errors().contains("not found"), "{none}");
    let not_executable = engine.run(&[], &["/etc/passwd"]).run().expect(126);
    assert!(not_executable.errors().to_lowercase().contains("permission denied"), "{not_executable}");
}

fn a_terminal_is_one_and_follows_its_size(engine: &Engine) {
    let mut terminal = Terminal::run(&engine.run(&["-it"], &["sh"]), 30, 90);
    // Docker tells the size once the program runs.
    terminal.write("tty; until stty size 2>/dev/null | grep .; do sleep 0.1; done; echo has-$(stty size)\n");
    terminal.expect("/dev/");
    terminal.expect("has-30 90");
    terminal.resize(40, 100);
    terminal.write("while [ \"$(stty size)\" != '40 100' ]; do :; done; echo grew-$((1+1))\n");
    terminal.expect("grew-2");
    terminal.write("exit 3\n");
    assert_eq!(terminal.wait(), 3);
}

fn init_is_the_first_process(engine: &Engine) {
    let output = engine.script(&["--init"], "cat /proc/1/comm; echo $$").expect(0);
    let lines = output.lines();
    assert!(lines[0].contains("init") || lines[0].contains("catatonit"), "{output}");
    assert_ne!(lines[1], "1");
    engine.script(&["--init"], "exit 9").expect(9);
}

fn user_groups_directory_and_environment_are_given(engine: &Engine) {
    let output =
        engine.script(&["--user=app", "--group-add=2000"], "id -u; id -g; id -G; echo $HOME").expect(0);
    assert_eq!(output.lines(), ["1000", "1000", "1000 2000", "/home/app"]);
    let output = engine.script(
        &["-u", "77:88", "-w", "/var/www", "-e", "A=b c"],
        "id -u; id -g; pwd; echo $A; echo $FROM_IMAGE",
    );
    assert_eq!(output.expect(0).lines(), ["77", "88", "/var/www", "b c", "yes"]);
}

fn capabilities_are_added_and_dropped(engine: &Engine) {
    let effective = |options: &[&str]| {
        let text = engine.script(options, "grep CapEff /proc/self/status").expect(0).text();
        u64::from_str_radix(text.split_whitespace().last().expect("a set"), 16).expect("hexadecimal")
    };
    const NET_ADMIN: u64 = 1 << 12;
    const CHOWN: u64 = 1;
    let usual = effective(&[]);
    assert_eq!(usual & (NET_ADMIN | CHOWN), CHOWN, "{usual:x}");
    assert_eq!(effective(&["--cap-add=NET_ADMIN", "--cap-drop=CHOWN"]), (usual | NET_ADMIN) & !CHOWN);
    assert_eq!(effective(&["--cap-drop=ALL"]), 0);
}

fn new_privileges_can_be_forbidden(engine: &Engine) {
    let read =
        |options: &[&str]| engine.script(options, "grep NoNewPrivs /proc/self/status").expect(0).text();
    assert!(read(&[]).ends_with('0'));
    assert!(read(&["--security-opt=no-new-privileges"]).ends_with('1'));
}

fn a_seccomp_profile_holds(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    let profile = directory.path().join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, text).expect("a profile");
    let option = format!("--security-opt=seccomp={}", profile.display());
    let output = engine.script(&[&option], "grep '^Seccomp:' /proc/self/status; mkdir /tmp/x").expect(1);
    assert!(output.text().ends_with('2') && output.errors().contains("not permitted"), "{output}");
    let output = engine
        .script(&["--security-opt=seccomp=unconfined"], "grep '^Seccomp:' /proc/self/status; mkdir /tmp/x");
    assert!(output.expect(0).text().ends_with('0'));
}

fn limits_of_resources_are_set(engine: &Engine) {
    let output = engine
        .script(
            &["--ulimit=nofile=100:200", "--ulimit=nproc=900:900", "--ulimit=core=0"],
            "ulimit -Sn; ulimit -Hn; ulimit -c",
        )
        .expect(0);
    assert_eq!(output.lines(), ["100", "200", "0"]);
}

fn sysctls_and_names_are_the_containers_own(engine: &Engine) {
    let options =
        ["--sysctl=net.ipv4.ip_default_ttl=33", "--sysctl=kernel.shm_rmid_forced=1", "--hostname=host.of.it"];
    let script = "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shm_rmid_forced; hostname; grep -c host.of.it /etc/hosts /etc/hostname";
    let output = engine.script(&options, script).expect(0);
    assert_eq!(output.lines()[..3], ["33", "1", "host.of.it"], "{output}");
    let own = engine.script(&[], "hostname").expect(0).text();
    assert!(own.len() == 12 && own.chars().all(|c| c.is_ascii_hexdigit()), "the container's id: {own}");
}

fn privileged_has_every_right_in_the_machine(engine: &Engine) {
    let script = "grep CapEff /proc/self/status; mount -t tmpfs none /mnt && echo mounted; ls /dev/kmsg";
    let output = engine.script(&["--privileged"], &format!("mkdir -p /mnt; {script}")).expect(0);
    let lines = output.lines();
    let effective = lines[0].split_whitespace().last().expect("a set").to_string();
    let effective = u64::from_str_radix(&effective, 16).expect("hexadecimal");
    assert!(effective.count_ones() >= 38 && lines[1] == "mounted", "{output}");
    if is_ours() {
        // Every right, in a machine of its own: none of the host's disks is there.
        assert_eq!(engine.script(&["--privileged"], "find /dev -type b").expect(0).text(), "");
    }
}
