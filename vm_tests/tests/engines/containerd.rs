//! containerd as it is packaged, with its own shim, told by `ctr`.

use crate::tests;
use std::fs;
use std::path::PathBuf;
use vm_tests::engine::{CONTAINERD, Engine, image, is_ours, runtime};
use vm_tests::{Command, Terminal, until};

tests![
    run_passes_streams_and_exit_code,
    run_has_a_terminal,
    exec_runs_beside_the_program,
    attach_shows_and_gives,
    signals_reach_the_program,
    pause_stops_everything_and_processes_are_listed,
    metrics_are_told,
    a_checkpoint_is_refused_with_the_reason,
    a_program_that_is_not_there_is_an_error,
];

/// `ctr run options... IMAGE ID program...`.
fn run(options: &[&str], id: &str, program: &[&str]) -> Command {
    let path = match runtime().as_str() {
        "cor" => "/usr/local/bin/cor",
        "crun" => "/usr/bin/crun",
        _ => "/usr/sbin/runc",
    };
    let run = CONTAINERD.command(&["run", "--runc-binary", path]).args(options);
    run.arg(image::NAME).arg(id).args(program)
}

/// A detached container whose output goes to a file; removed when this is dropped.
struct Task {
    id: String,
    log: PathBuf,
}

impl Task {
    fn start(script: &str) -> Self {
        let id = CONTAINERD.new_name();
        let log = PathBuf::from(format!("/run/{id}.log"));
        let task = Task { log, id };
        let to = format!("file://{}", task.log.display());
        run(&["--detach", "--log-uri", &to], &task.id, &["sh", "-c", script]).ok();
        task
    }

    /// `ctr task words... ID`.
    fn command(&self, words: &[&str]) -> Command {
        CONTAINERD.command(&["task"]).args(words).arg(&self.id)
    }

    /// `ctr task exec options... ID program...`.
    fn exec(&self, options: &[&str], program: &[&str]) -> Command {
        let name = CONTAINERD.new_name();
        self.command(&[&["exec", "--exec-id", &name], options].concat()).args(program)
    }

    #[track_caller]
    fn expect_log(&self, text: &str) {
        let has = || fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text));
        until(&format!("{text:?} in the output"), || has().then_some(()));
    }

    fn status(&self) -> String {
        let list = CONTAINERD.command(&["task", "ls"]).ok();
        let of_it = list.lines().find(|line| line.split_whitespace().next() == Some(&self.id));
        of_it.and_then(|line| line.split_whitespace().nth(2)).unwrap_or("none").into()
    }

    #[track_caller]
    fn expect_status(&self, status: &str) {
        until(&format!("status {status}"), || (self.status() == status).then_some(()));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Attaching has removed the task already; the container cannot be removed while there is one.
        self.command(&["rm", "--force"]).run();
        let removed = CONTAINERD.command(&["containers", "rm", &self.id]).run();
        if !std::thread::panicking() {
            removed.expect(0);
        }
    }
}

fn run_passes_streams_and_exit_code(engine: &Engine) {
    let output =
        run(&["--rm"], &engine.new_name(), &["sh", "-c", "echo out; echo err >&2; exit 7"]).run().expect(7);
    assert_eq!((output.text().as_str(), output.errors().trim_end()), ("out", "err"));
    let options = ["--rm", "--env", "A=b", "--cwd", "/var/www", "--read-only"];
    let output = run(&options, &engine.new_name(), &["sh", "-c", "echo $A $FROM_IMAGE; pwd; : >/file"]).run();
    assert_eq!(output.clone().expect(1).lines(), ["b yes", "/var/www"]);
    assert!(output.errors().contains("Read-only"), "{output}");
}

fn run_has_a_terminal(engine: &Engine) {
    let mut terminal = Terminal::run(&run(&["--rm", "--tty"], &engine.new_name(), &["sh"]), 30, 90);
    // ctr says the size when the program runs already.
    terminal
        .write("tty; until stty size 2>/dev/null | grep '^30 90'; do sleep 0.1; done; echo has-$((1+1))\n");
    terminal.expect("/dev/");
    terminal.expect("has-2");
    terminal.write("exit 3\n");
    assert_eq!(terminal.wait(), 3);
}

fn exec_runs_beside_the_program(_: &Engine) {
    let task = Task::start("sleep 1000");
    let output = task.exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 5"]).run().expect(5);
    assert_eq!((output.text().as_str(), output.errors().trim_end()), ("out", "err"));
    let output = task.exec(&["--cwd", "/var/www", "--user", "1000"], &["sh", "-c", "pwd; id -u"]).ok();
    assert_eq!(output.lines().collect::<Vec<_>>(), ["/var/www", "1000"]);
    let mut terminal = Terminal::run(&task.exec(&["--tty"], &["sh"]), 20, 70);
    terminal.write("until stty size 2>/dev/null | grep '^20 70'; do sleep 0.1; done; echo has-$((1+1))\n");
    terminal.expect("has-2");
    terminal.write("exit 4\n");
    assert_eq!(terminal.wait(), 4);
}

fn attach_shows_and_gives(engine: &Engine) {
    let id = engine.new_name();
    // It wants a terminal even to leave the container's alone.
    let begun = Terminal::run(&run(&["--detach", "--tty"], &id, &["sh"]), 24, 80).wait();
    assert_eq!(begun, 0);
    let task = Task { log: PathBuf::new(), id };
    let mut terminal = Terminal::run(&task.command(&["attach"]), 24, 80);
    terminal.write("echo is-$((40+2))\n");
    terminal.expect("is-42");
    terminal.write("exit 8\n");
    assert_eq!(terminal.wait(), 8);
}

fn signals_reach_the_program(_: &Engine) {
    let task = Task::start(
        "for s in HUP USR1 TERM; do trap \"echo got-$s.\" $s; done; echo ready; while :; do sleep 0.1; done",
    );
    task.expect_log("ready");
    for signal in ["HUP", "USR1", "TERM"] {
        task.command(&["kill", "--signal", &format!("SIG{signal}")]).ok();
        task.expect_log(&format!("got-{signal}."));
    }
    task.command(&["kill", "--signal", "SIGKILL"]).ok();
    task.expect_status("STOPPED");
}

fn pause_stops_everything_and_processes_are_listed(_: &Engine) {
    let task = Task::start("while :; do echo x; sleep 0.05; done");
    task.expect_log("x");
    let listed = task.command(&["ps"]).ok();
    let pid = CONTAINERD.command(&["task", "ls"]).ok();
    let pid = pid.lines().find(|line| line.starts_with(&format!("{} ", task.id))).expect("the task");
    let pid = pid.split_whitespace().nth(1).expect("a pid").to_string();
    assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(&pid)), "{listed}");
    task.command(&["pause"]).ok();
    assert_eq!(task.status(), "PAUSED");
    let length = || fs::metadata(&task.log).expect("the output").len();
    // What was on its way has come after a moment.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = length();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(length(), before);
    task.command(&["resume"]).ok();
    assert_eq!(task.status(), "RUNNING");
    until("more output", || (length() > before).then_some(()));
}

fn metrics_are_told(_: &Engine) {
    if !vm_tests::on_readable_groups() {
        return;
    }
    let task = Task::start("while :; do :; done");
    let metric = |text: &str, name: &str| {
        let of_it = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        of_it.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
    };
    let used = || {
        let text = task.command(&["metrics"]).ok();
        let memory = metric(&text, "memory.usage_in_bytes").or_else(|| metric(&text, "memory.usage"))?;
        let processor = metric(&text, "cpuacct.usage").or_else(|| metric(&text, "cpu.usage_usec"))?;
        (memory > 0).then_some(processor)
    };
    let before = until("statistics", used);
    until("a use of the processor", || used().filter(|now| *now > before));
}

fn a_checkpoint_is_refused_with_the_reason(_: &Engine) {
    if !is_ours() {
        return;
    }
    let task = Task::start("sleep 1000");
    let output = task.command(&["checkpoint"]).run();
    assert!(output.code != 0 && output.errors().contains("checkpoint"), "{output}");
    assert!(output.errors().contains("not supported") || output.errors().contains("cannot"), "{output}");
    assert_eq!(task.status(), "RUNNING");
}

fn a_program_that_is_not_there_is_an_error(engine: &Engine) {
    let id = engine.new_name();
    let output = run(&["--rm"], &id, &["/none"]).run();
    assert!(output.code != 0 && output.errors().contains("no such file or directory"), "{output}");
    let list = CONTAINERD.command(&["task", "ls", "--quiet"]).ok();
    assert!(!list.lines().any(|line| line == id), "{list}");
}
