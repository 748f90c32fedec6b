//! What goes wrong on the way: clients that are killed or leave, machines that die, much at once.

use crate::tests;
use std::time::Duration;
use vm_tests::engine::{Container, Engine, image, is_ours};
use vm_tests::{Terminal, send_signal, until};

tests![
    a_client_killed_at_any_moment_leaves_what_can_be_removed,
    a_client_that_leaves_its_exec_disturbs_nobody,
    a_container_is_removed_while_it_starts,
    a_lost_machine_is_told_and_started_again,
    many_processes_are_executed_at_once,
    many_variables_and_arguments_arrive,
    much_output_is_kept,
    what_is_not_there_leaves_nothing,
];

/// Moments of a container's way to its program, in milliseconds: for an emulated machine and for a fast one.
const MOMENTS: [u64; 6] = [20, 70, 150, 300, 600, 1100];

fn a_client_killed_at_any_moment_leaves_what_can_be_removed(engine: &Engine) {
    for moment in MOMENTS {
        let name = engine.new_name();
        let run = engine.command(&["run", "--network=none", "--name", &name, image::NAME, "sleep", "1000"]);
        let client = run.start();
        std::thread::sleep(Duration::from_millis(moment));
        client.signal(libc::SIGKILL);
        client.wait();
        removed(engine, &name);
    }
}

/// Removes a container that may be anywhere on its way, or nowhere.
#[track_caller]
fn removed(engine: &Engine, name: &str) {
    until("its removal", || {
        let removal = engine.command(&["rm", "--force", name]).run();
        let gone = engine.command(&["inspect", "--type=container", name]).run().code != 0;
        (removal.code == 0 && gone || removal.errors().to_lowercase().contains("no such container"))
            .then_some(())
    });
}

fn a_client_that_leaves_its_exec_disturbs_nobody(engine: &Engine) {
    // Podman's monitor of such a process stays for five minutes, whatever the runtime.
    if !engine.is_docker() {
        return;
    }
    let container = engine.sleeping(&[]);
    let mut terminal = Terminal::run(&container.exec(&["-it"], &["sh"]), 20, 70);
    terminal.write("echo here-$((1+1)); trap '' HUP; sleep 555\n");
    terminal.expect("here-2");
    // SIGKILL for the client.
    drop(terminal);
    assert_eq!(container.sh("echo well"), "well");
    container.command(&["stop", "-t", "0"]).ok();
    container.command(&["start"]).ok();
    assert_eq!(container.sh("ps -o args | grep -c '[s]leep 555' || true"), "0");
}

fn a_container_is_removed_while_it_starts(engine: &Engine) {
    for moment in [30, 400] {
        let name = engine.new_name();
        let run = engine.command(&[
            "run",
            "--detach",
            "--network=none",
            "--name",
            &name,
            image::NAME,
            "sleep",
            "1000",
        ]);
        let client = run.start();
        std::thread::sleep(Duration::from_millis(moment));
        let _ = engine.command(&["rm", "--force", &name]).run();
        // It has lost its container, or was done before.
        client.wait();
        removed(engine, &name);
    }
}

fn a_lost_machine_is_told_and_started_again(engine: &Engine) {
    if !is_ours() {
        return;
    }
    let container = engine.sleeping(&[]);
    let pid = container.inspect("/State/Pid").as_u64().expect("a pid");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    let of_threads =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let machines: Vec<u32> = of_threads
        .chain([children])
        .flat_map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>())
        .collect();
    let machine = machines.first().expect("a machine");
    send_signal(*machine, libc::SIGKILL);
    assert_eq!(container.wait(), 137);
    assert!(container.logs().errors().contains("killed by signal 9"), "{}", container.logs());
    container.command(&["start"]).ok();
    assert_eq!(container.sh("echo back"), "back");
}

fn many_processes_are_executed_at_once(engine: &Engine) {
    let container = engine.sleeping(&[]);
    let words: Vec<String> = (0..60).map(|number| format!("word-{number}")).collect();
    let all: Vec<_> =
        words.iter().map(|word| container.exec(&[], &["echo", word]).patience(120).start()).collect();
    for (running, word) in all.into_iter().zip(&words) {
        assert_eq!(running.wait().expect(0).text(), *word);
    }
}

fn many_variables_and_arguments_arrive(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("variables");
    let lines: String = (0..10_000).map(|number| format!("V_{number}=value of {number}\n")).collect();
    std::fs::write(&file, lines).expect("a file");
    let options = ["--env-file", file.to_str().expect("a path")];
    let output = engine.script(&options, "env | grep -c ^V_; echo $V_9999").expect(0);
    assert_eq!(output.lines(), ["10000", "value of 9999"]);
    let argument = "a".repeat(100_000);
    let output = engine.run(&[], &["sh", "-c", "echo ${#1}", "sh", &argument]).run().expect(0);
    assert_eq!(output.text(), "100000");
}

fn much_output_is_kept(engine: &Engine) {
    let container = engine.start(&[], &["sh", "-c", "seq 1 200000; echo end >&2"]);
    assert_eq!(container.wait(), 0);
    let lines = container.logs().lines();
    let numbers = lines.iter().filter_map(|line| line.parse::<u32>().ok());
    assert!(numbers.eq(1..=200_000), "{} lines", lines.len());
}

fn what_is_not_there_leaves_nothing(engine: &Engine) {
    let failed = |options: &[&str], program: &[&str], words: &str| {
        let name = engine.new_name();
        let output = engine.run(&[&["--name", &name][..], options].concat(), program).run();
        assert!(output.code != 0 && output.errors().contains(words), "{output}");
        drop(Container::named(engine, &name));
    };
    // Docker makes it.
    if !engine.is_docker() {
        failed(&["--volume=/none/such:/x:ro"], &["true"], "/none/such");
    }
    failed(&["--workdir=/etc/passwd"], &["true"], "");
    failed(&["--device=/dev/none"], &["true"], "/dev/none");
    failed(&["--user=nobody-here"], &["true"], "nobody-here");
}
