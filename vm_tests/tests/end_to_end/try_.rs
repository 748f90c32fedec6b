//! `cor try`: one command, no bundle.

use std::fs;
use vm_tests::{Sandbox, Terminal};

#[test]
fn the_hosts_programs_run_in_a_machine_without_the_hosts_data() {
    let sandbox = Sandbox::new();
    let script = "uname -r; cat; ls /root /home | wc -l; test -e /etc/shadow || echo no shadow; touch /usr/x || echo read-only; id -u; pwd; exit 5";
    let output = sandbox.cor(&["try", "-i", "--", "sh", "-c", script]).input("input\n").run().expect(5);
    let lines = output.lines();
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(lines[0], host.trim(), "another kernel");
    assert_eq!(lines[1], "input");
    assert_eq!(lines[3..], ["no shadow", "read-only", "0", "/"], "{output}");
    sandbox.assert_nothing_left();
}

#[test]
fn flags_give_root_volumes_cpus_memory_environment_user_and_directory() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let (rw, ro) = (sandbox.path().join("rw"), sandbox.path().join("ro"));
    for volume in [&rw, &ro] {
        fs::create_dir(volume).unwrap();
        fs::write(volume.join("file"), "here").unwrap();
        fs::set_permissions(volume, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let script = "nproc; cat /sys/fs/cgroup/memory.max; echo $WORD $FROM; id -u; id -g; pwd; cat /rw/file /ro/file; echo x > /rw/new; echo x > /ro/new || echo refused";
    let output = sandbox
        .cor(&["try", "--rootfs"])
        .arg(bundle.rootfs("/"))
        .args(["--volume", &format!("{}:/rw", rw.display()), "-v", &format!("{}:/ro:ro", ro.display())])
        .args([
            "--cpus",
            "2",
            "--memory",
            "300m",
            "-e",
            "WORD=w",
            "-e",
            "FROM",
            "--user",
            "1000:1001",
            "--workdir",
            "/tmp",
        ])
        .args(["--", "sh", "-c", script])
        .env("FROM", "outside")
        .run()
        .expect(0);
    let cpus = std::thread::available_parallelism().unwrap().get().min(2).to_string();
    assert_eq!(
        output.lines(),
        [&cpus, &(300_u64 << 20).to_string(), "w outside", "1000", "1001", "/tmp", "herehererefused"],
        "{output}"
    );
    assert_eq!(fs::read_to_string(rw.join("new")).unwrap(), "x\n");
    assert!(!ro.join("new").exists());
    sandbox.assert_nothing_left();
}

#[test]
fn it_gives_a_terminal_when_asked_and_there_is_one() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let command = sandbox.cor(&["try", "-it", "--rootfs"]).arg(bundle.rootfs("/")).args(["--", "sh"]);
    let mut terminal = Terminal::run(&command, 25, 81);
    terminal.write("stty size; exit 6\n");
    terminal.expect("25 81");
    assert_eq!(terminal.wait(), 6);
    command.run().refused("no terminal");
    sandbox.assert_nothing_left();
}

#[test]
fn a_wrong_flag_is_refused_with_the_fix() {
    let sandbox = Sandbox::new();
    let refused = |args: &[&str], words: &str| {
        drop(sandbox.cor(&[&["try"], args, &["--", "true"]].concat()).run().refused(words))
    };
    refused(&["--rootfs", "/no/such"], "/no/such");
    refused(&["--volume", "nonsense"], "nonsense");
    refused(&["--memory", "much"], "--memory");
    refused(&["--user", "root"], "--user");
    let none = sandbox.cor(&["try"]).run();
    assert!(none.code != 0 && none.errors().contains("COMMAND"), "{none}");
    sandbox.assert_nothing_left();
}
