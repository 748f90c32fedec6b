//! Terminals: `run` and `exec -t` on a user's terminal, and console sockets as engines use them.

use serde_json::json;
use vm_tests::{ConsoleSocket, Container, Sandbox, Terminal};

/// A prompt that cannot be mistaken for the echo of what was typed.
const PROMPT: &str = "PS1='rea''dy> '";

#[test]
fn run_gives_a_shell_with_size_resize_and_job_control() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.program(&["sh"]).change(|spec| spec["process"]["terminal"] = json!(true));
    let mut terminal = Terminal::run(&sandbox.run_command(&bundle), 24, 80);
    terminal.write(&format!("{PROMPT}\n"));
    terminal.expect("ready> ");
    assert!(terminal.is_raw(), "keys go to the guest's line discipline");
    terminal.write("stty size; tty; test -t 0 -a -t 1 -a -t 2 && echo all''three\n");
    terminal.expect("24 80");
    terminal.expect("/dev/");
    terminal.expect("allthree");

    terminal.resize(40, 100);
    terminal.write("trap 'echo winch' WINCH; while [ \"$(stty size)\" != '40 100' ]; do sleep 0.1; done; echo big''ger\n");
    terminal.expect("bigger");

    terminal.write("sleep 1000\n");
    terminal.expect("sleep 1000");
    std::thread::sleep(std::time::Duration::from_millis(500));
    terminal.write("\x03");
    terminal.write("echo code=$?\n");
    terminal.expect("code=130");
    terminal.write("sleep 1001\n");
    terminal.expect("sleep 1001");
    std::thread::sleep(std::time::Duration::from_millis(500));
    terminal.write("\x1a");
    terminal.expect("Stopped");
    // The first time the shell warns of the stopped job.
    terminal.write("exit 5\n");
    terminal.expect("stopped jobs");
    terminal.write("exit 5\n");
    assert_eq!(terminal.wait(), 5);
    assert!(!terminal.is_raw(), "the terminal is as it was");
}

#[test]
fn a_container_that_fails_to_start_leaves_the_terminal_as_it_was() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.program(&["no-such-program"]).change(|spec| spec["process"]["terminal"] = json!(true));
    let mut terminal = Terminal::run(&sandbox.run_command(&bundle), 24, 80);
    assert_eq!(terminal.wait(), 1);
    terminal.expect("executable file not found in $PATH");
    assert!(!terminal.is_raw());
}

#[test]
fn an_engine_gets_the_terminal_over_its_console_socket() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.program(&["sh"]).change(|spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    });
    let socket = ConsoleSocket::new(sandbox.path());
    let container =
        Container::create(&sandbox, &bundle, &["--console-socket", socket.path().to_str().unwrap()]);
    let mut terminal = socket.terminal();
    let pid = container.pid();
    container.start();
    terminal.write(&format!("{PROMPT}\n"));
    terminal.expect("ready> ");
    terminal.write("stty size\n");
    terminal.expect("33 77");
    terminal.resize(50, 132);
    terminal.write("while [ \"$(stty size)\" != '50 132' ]; do sleep 0.1; done; echo resi''zed\n");
    terminal.expect("resized");
    terminal.write("echo is''last; exit 3\n");
    terminal.expect("islast");
    assert_eq!(Container::reap(pid), 3);
}

#[test]
fn a_console_socket_must_fit_the_configuration() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let create = |flags: &[&str]| {
        sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).args(flags).arg(sandbox.id()).run()
    };
    create(&["--console-socket", "/nowhere/s"]).refused("process.terminal is false");
    bundle.change(|spec| spec["process"]["terminal"] = json!(true));
    create(&[]).refused("console socket");
    create(&["--console-socket", "/nowhere/s"]).refused("/nowhere/s");
    sandbox
        .cor(&["run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(sandbox.id())
        .run()
        .refused("console socket");
    sandbox.assert_nothing_left();
}

#[test]
fn exec_gets_a_terminal_of_its_own() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let mut terminal = Terminal::run(&container.exec_with(&["--tty"], &["sh"]), 30, 90);
    terminal.write(&format!("{PROMPT}\n"));
    terminal.expect("ready> ");
    terminal.write("stty size\n");
    terminal.expect("30 90");
    terminal.resize(31, 91);
    terminal.write("while [ \"$(stty size)\" != '31 91' ]; do sleep 0.1; done; echo resi''zed\n");
    terminal.expect("resized");
    terminal.write("sleep 1000\n");
    terminal.expect("sleep 1000");
    std::thread::sleep(std::time::Duration::from_millis(500));
    terminal.write("\x03");
    terminal.write("echo code=$?; exit 4\n");
    terminal.expect("code=130");
    assert_eq!(terminal.wait(), 4);
    assert!(!terminal.is_raw());
}

#[test]
fn a_detached_exec_gives_its_terminal_to_the_console_socket() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    let socket = ConsoleSocket::new(sandbox.path());
    let pid_file = sandbox.path().join("pid");
    let flags = [
        "--tty",
        "--detach",
        "--console-socket",
        socket.path().to_str().unwrap(),
        "--pid-file",
        pid_file.to_str().unwrap(),
    ];
    let mut exec = container.exec_with(&flags, &["sh"]).std();
    let mut exec = exec.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut terminal = socket.terminal();
    // As containerd's shim: it waits for the end of the output while the program runs.
    let (mut output, (ended, end)) = (exec.stdout.take().unwrap(), std::sync::mpsc::channel());
    std::thread::spawn(move || ended.send(std::io::read_to_string(&mut output)));
    assert_eq!(end.recv_timeout(vm_tests::PATIENCE).expect("the end of the output").unwrap(), "");
    assert!(exec.wait().unwrap().success());
    terminal.resize(20, 60);
    terminal.write("while [ \"$(stty size)\" != '20 60' ]; do sleep 0.1; done; echo resi''zed; exit 7\n");
    terminal.expect("resized");
    assert_eq!(Container::reap(std::fs::read_to_string(pid_file).unwrap().parse().unwrap()), 7);
}

#[test]
fn a_terminal_where_there_is_none_is_refused() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    container.exec_with(&["--tty"], &["sh"]).run().refused("no terminal");
    container.exec_with(&["--tty", "--detach"], &["sh"]).run().refused("console socket");
    container.exec_with(&["--console-socket", "/nowhere/s"], &["sh"]).run().refused("without a terminal");
}
