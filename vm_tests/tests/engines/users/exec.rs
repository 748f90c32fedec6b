//! Programs that are run in a running container.

use crate::tests;
use vm_tests::engine::Engine;
use vm_tests::{Terminal, until};

tests![
    exec_passes_streams_and_exit_code,
    exec_takes_user_directory_and_environment,
    exec_says_what_could_not_be_run,
    exec_on_a_terminal,
    exec_in_the_background,
    attach_shows_what_is_printed,
    attach_gives_input,
];

fn exec_passes_streams_and_exit_code(engine: &Engine) {
    let container = engine.sleeping(&[]);
    let output = container.exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 5"]).run().expect(5);
    assert_eq!((output.text().as_str(), output.errors().trim_end()), ("out", "err"));
    let big = vec![b'x'; 1 << 20];
    let output = container.exec(&["-i"], &["cat"]).input(&big).run().expect(0);
    assert!(output.stdout == big, "{} bytes of 1 MiB came back", output.stdout.len());
}

fn exec_takes_user_directory_and_environment(engine: &Engine) {
    let container = engine.sleeping(&["-e", "OF=container"]);
    let exec = container.exec(
        &["-u", "app", "-w", "/var/www", "-e", "A=b c"],
        &["sh", "-c", "id -u; pwd; echo $A; echo $OF"],
    );
    assert_eq!(exec.run().expect(0).lines(), ["1000", "/var/www", "b c", "container"]);
}

fn exec_says_what_could_not_be_run(engine: &Engine) {
    let container = engine.sleeping(&[]);
    // Docker 20.10 takes runc's words for 126 here.
    container.exec(&[], &["/none"]).run().expect(if engine.is_docker() { 126 } else { 127 });
    container.exec(&[], &["/etc/passwd"]).run().expect(126);
    assert_eq!(container.sh("echo still here"), "still here");
}

fn exec_on_a_terminal(engine: &Engine) {
    let container = engine.sleeping(&[]);
    let mut terminal = Terminal::run(&container.exec(&["-it"], &["sh"]), 20, 70);
    // Docker tells the size once the program runs.
    terminal.write("tty; until stty size 2>/dev/null | grep .; do sleep 0.1; done; echo has-$(stty size)\n");
    terminal.expect("/dev/");
    terminal.expect("has-20 70");
    terminal.write("sleep 1000\n");
    until("the program", || container.sh("ps -o args").contains("sleep 1000").then_some(()));
    terminal.write("\x03");
    terminal.write("echo on-$((1+1))\n");
    terminal.expect("on-2");
    terminal.write("exit 4\n");
    assert_eq!(terminal.wait(), 4);
}

fn exec_in_the_background(engine: &Engine) {
    let container = engine.sleeping(&[]);
    container.exec(&["-d"], &["sh", "-c", "echo done > /tmp/done"]).ok();
    until("the program's end", || {
        (container.exec(&[], &["cat", "/tmp/done"]).run().text() == "done").then_some(())
    });
}

fn attach_shows_what_is_printed(engine: &Engine) {
    let container = engine
        .start(&[], &["sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.1; done; echo seen; sleep 2; exit 6"]);
    let attached = container.command(&["attach", "--no-stdin"]).start();
    // Nothing says that it is attached.
    std::thread::sleep(std::time::Duration::from_secs(1));
    container.sh("touch /tmp/go");
    let attached = attached.wait();
    assert_eq!(attached.text(), "seen", "{attached}");
    assert_eq!(container.wait(), 6);
}

fn attach_gives_input(engine: &Engine) {
    let container = engine.start(&["-i", "-t"], &["sh"]);
    let mut terminal = Terminal::run(&container.command(&["attach"]), 24, 80);
    terminal.write("echo is-$((40+2))\n");
    terminal.expect("is-42");
    terminal.write("exit 8\n");
    terminal.wait();
    assert_eq!(container.wait(), 8);
}
