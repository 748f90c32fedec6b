//! `cor exec`, and the process on the host that stands for the one in the guest.

use serde_json::json;
use std::fs;
use std::process::Stdio;
use std::time::Duration;
use vm_tests::{Container, Running, Sandbox, send_signal, until};

#[test]
fn exec_takes_user_directory_environment_and_passes_streams_and_exit_code() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let run = |flags: &[&str], script: &str| {
        container.exec_with(flags, &["sh", "-c", script]).input("some input").run()
    };
    let output = run(&[], "cat; echo error >&2; exit 5").expect(5);
    assert_eq!((output.text().as_str(), output.errors().as_str()), ("some input", "error\n"));
    assert_eq!(run(&["--user", "1000:1000"], "id -u; id -g").expect(0).lines(), ["1000", "1000"]);
    assert_eq!(run(&["-u", "1000"], "id -u; id -g").expect(0).lines(), ["1000", "0"]);
    assert_eq!(run(&["-u", "1:2", "-g", "7", "-g", "2000"], "id -G").expect(0).text(), "2 7 2000");
    assert_eq!(run(&["--cwd", "/home/user"], "pwd").expect(0).text(), "/home/user");
    assert_eq!(
        run(&["-e", "A=x y", "-e", "B="], "echo \"[$A][$B][${PATH:+path}]\"").expect(0).text(),
        "[x y][][path]"
    );
    let no_such = container.exec_with(&["--cwd", "/no/such"], &["pwd"]).run();
    assert!(no_such.code != 0 && no_such.errors().contains("/no/such"), "{no_such}");
    container.exec(&[]).run().refused("no command");
}

#[test]
fn exec_takes_a_process_from_a_file_or_from_standard_input() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let process = json!({
        "args": ["sh", "-c", "id -u; pwd; echo $WORD; umask; exit 3"], "cwd": "/tmp", "env": ["PATH=/bin", "WORD=w"],
        "user": { "uid": 1000, "gid": 1000, "umask": 0o27 }
    });
    let file = sandbox.path().join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let output = sandbox.cor(&["exec", "--process"]).arg(&file).arg(&container.id).run().expect(3);
    assert_eq!(output.lines(), ["1000", "/tmp", "w", "0027"]);
    let output =
        sandbox.cor(&["exec", "--process", "-", &container.id]).input(process.to_string()).run().expect(3);
    assert_eq!(output.lines()[0], "1000");
    sandbox.cor(&["exec", "--process", "/no/such", &container.id]).run().refused("/no/such");
    sandbox.cor(&["exec", "--process", "-", &container.id]).input("{").run().refused("JSON");
}

#[test]
fn exec_joins_the_containers_namespaces_and_control_group() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let script = "for n in pid ipc uts mnt net cgroup; do \
        [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo other $n; done; \
        cat /proc/1/cgroup /proc/self/cgroup | sort -u | wc -l; hostname; ls / | grep -c bin";
    assert_eq!(container.sh(script), "1\nguest\n1");
}

#[test]
fn exec_has_the_containers_capabilities_and_no_more_unless_asked() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.change(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_KILL"]);
        }
        spec["process"]["noNewPrivileges"] = json!(true);
    });
    let container = sandbox.start(&bundle);
    let look = |flags: &[&str]| {
        let status = container
            .exec_with(flags, &["grep", "-E", "CapEff|CapBnd|NoNewPrivs|CapAmb", "/proc/self/status"])
            .ok();
        status
            .lines()
            .map(|l| l.split_whitespace().nth(1).unwrap().trim_start_matches('0').to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(look(&[]), ["20", "20", "", "1"]);
    assert_eq!(look(&["--cap", "CAP_NET_RAW"])[0], "2020");
}

#[test]
fn the_pid_of_a_detached_exec_exits_with_the_process_exit_code() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let pid_file = sandbox.path().join("pid");
    let flags = ["--detach", "--pid-file", pid_file.to_str().unwrap()];
    let pid = |script: &str| {
        let mut running = container.exec_with(&flags, &["sh", "-c", script]).start();
        assert_eq!(until("exec --detach", || running.ended()), 0, "{}", running.output_so_far());
        (fs::read_to_string(&pid_file).unwrap().parse::<u32>().unwrap(), running)
    };
    let (one, output) = pid("sleep 1; echo detached words; exit 9");
    assert_eq!(Container::reap(one), 9);
    assert_eq!(output.output_so_far().text(), "detached words");
    let (two, _output) = pid("kill -9 $$");
    assert_eq!(Container::reap(two), 137);
    let failed = container.exec_with(&flags, &["no-such-program"]).run();
    assert!(failed.code != 0 && failed.errors().contains("executable file not found in $PATH"), "{failed}");
}

/// Starts an exec that says when it runs, and waits for that.
fn started(container: &Container<'_>, script: &str) -> Running {
    let running = container.exec(&["sh", "-c", script]).start();
    until("the exec's first words", || running.output_so_far().text().contains("up").then_some(()));
    running
}

#[test]
fn signals_to_the_stand_in_reach_the_process() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let running = started(
        &container,
        "trap 'echo usr1' USR1; trap 'exit 6' TERM; echo up; while :; do sleep 0.1; done",
    );
    running.signal(libc::SIGUSR1);
    until("the trap", || running.output_so_far().text().contains("usr1").then_some(()));
    running.signal(libc::SIGTERM);
    running.wait().expect(6);
    let running = started(&container, "echo up; exec sleep 999");
    running.signal(libc::SIGINT);
    running.wait().expect(130);
}

#[test]
fn kill_9_of_the_stand_in_kills_the_process() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let running = started(&container, "echo up; exec sleep 998");
    assert!(container.sh("ps").contains("sleep 998"));
    send_signal(running.pid(), libc::SIGKILL);
    let _ = running.wait();
    until("the process to be gone", || (!container.sh("ps").contains("sleep 998")).then_some(()));
}

#[test]
fn the_end_of_the_container_ends_its_execs() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let running = started(&container, "echo up; exec sleep 997");
    let pid = container.pid();
    container.kill("KILL");
    running.wait().expect(137);
    assert_eq!(Container::reap(pid), 137);
}

#[test]
fn the_code_of_a_process_is_kept_while_the_container_ends_before_its_output_is_read() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script(
        "while ! [ -s /tmp/pid ]; do sleep 0.1; done; while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.1; done; echo over",
    );
    let container = sandbox.start(&bundle);
    // More than the pipe takes that nobody reads, less than that and what is on its way to it.
    let script = "echo $$ >/tmp/new; mv /tmp/new /tmp/pid; head -c 300000 /dev/zero; exit 3";
    let pid_file = sandbox.path().join("pid");
    let flags = ["--detach", "--pid-file", pid_file.to_str().expect("a path")];
    let mut command = container.exec_with(&flags, &["sh", "-c", script]).std();
    let mut exec = command.stdout(Stdio::piped()).spawn().expect("cor");
    assert!(exec.wait().expect("its end").success());
    until("the end of the program", || (container.output().text() == "over").then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    let mut output = exec.stdout.take().expect("a pipe");
    assert_eq!(std::io::copy(&mut output, &mut std::io::sink()).expect("reading a pipe"), 300_000);
    let pid = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_eq!(Container::reap(pid), 3);
    container.wait_for("stopped");
    container.delete();
}

#[test]
fn many_execs_at_once_keep_their_streams_apart() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let running: Vec<_> = (0..10)
        .map(|n| {
            container
                .exec(&["sh", "-c", &format!("read word; seq {n}000 {n}999; echo $word; exit {n}")])
                .input(format!("word{n}\n"))
                .start()
        })
        .collect();
    for (n, running) in running.into_iter().enumerate() {
        let lines = running.wait().expect(n as i32).lines();
        assert_eq!(lines.len(), 1001, "{n}");
        assert_eq!(
            (lines[0].clone(), lines[1000].clone()),
            (format!("{n}000").replace("0000", "0"), format!("word{n}"))
        );
    }
}

#[test]
fn exec_works_in_a_created_container() {
    let sandbox = Sandbox::new();
    let container = sandbox.create(&sandbox.bundle());
    assert_eq!(container.sh("echo before start"), "before start");
    container.start();
    assert_eq!(container.sh("echo after start"), "after start");
}

#[test]
fn no_zombie_is_left_of_processes_that_were_executed() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    for _ in 0..5 {
        container.sh("true | true | true");
        container.exec(&["sh", "-c", "kill -9 $$"]).run().expect(137);
    }
    assert_eq!(container.sh("cat /proc/[0-9]*/stat | awk '$3 == \"Z\"' | wc -l"), "0");
}

#[test]
fn orphans_fall_to_the_containers_first_process() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.program(&["sh", "-c", "while :; do sleep 0.1; done"]);
    let container = sandbox.start(&bundle);
    container.sh("(sh -c 'sleep 0.5; echo $PPID > /parent' &) ; exit 0");
    let parent = until("the orphan's word", || {
        fs::read_to_string(bundle.rootfs("/parent")).ok().filter(|t| t.ends_with('\n'))
    });
    let children = container.sh("cat /proc/1/comm; cat /proc/[0-9]*/stat | awk '$3 == \"Z\"' | wc -l");
    assert!(children.starts_with("sh\n") && !parent.is_empty(), "{children}");
    until("a shell as first process to reap them", || {
        (container.sh("cat /proc/[0-9]*/stat | awk '$3 == \"Z\"' | wc -l") == "0").then_some(())
    });
}

#[test]
fn the_end_of_a_short_process_is_never_missed() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    for round in 0..60 {
        container.exec(&["sh", "-c", &format!("exit {round}")]).patience(20).run().expect(round);
    }
}
