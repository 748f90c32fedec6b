//! `cor run`: exit codes, programs that cannot be executed, flags.

use vm_tests::{Container, Sandbox};

#[test]
fn the_exit_code_is_the_programs() {
    let sandbox = Sandbox::new();
    for code in [0, 3, 255] {
        let bundle = sandbox.bundle();
        bundle.script(&format!("exit {code}"));
        let output = sandbox.run(&bundle).expect(code);
        assert_eq!((output.text().as_str(), output.errors_without_warnings().as_str()), ("", ""));
    }
    sandbox.assert_nothing_left();
}

#[test]
fn a_signals_exit_code_is_128_more() {
    let sandbox = Sandbox::new();
    let container = sandbox.sleeping();
    for (signal, code) in [("TERM", 143), ("SEGV", 139), ("KILL", 137), ("USR1", 138), ("PIPE", 141)] {
        container.exec(&["sh", "-c", &format!("kill -{signal} $$")]).run().expect(code);
    }
    let pid = container.pid();
    container.kill("9");
    assert_eq!(Container::reap(pid), 137);
}

/// Runs a program that cannot be executed, with `run` and with `exec`.
fn cannot_execute(program: &str, words: &str) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.file("/plain", "no program", 0o644).file("/broken", "\x7fELFrubbish", 0o755).program(&[program]);
    sandbox.run(&bundle).refused(words);
    sandbox.cor(&["create", "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run().refused(words);
    sandbox.assert_nothing_left();
    bundle.program(&["sleep", "1000"]);
    let container = sandbox.start(&bundle);
    let output = container.exec(&[program]).run();
    assert!(output.errors().contains(words), "{output}");
    assert!([1, 126, 127, 255].contains(&output.code), "{output}");
}

#[test]
fn a_command_that_is_not_found_fails_with_runcs_words() {
    cannot_execute("no-such-program", "executable file not found in $PATH");
}

#[test]
fn a_path_that_is_not_found_fails_with_runcs_words() {
    cannot_execute("/no/such/program", "no such file or directory");
}

#[test]
fn a_file_that_is_not_executable_fails_with_runcs_words() {
    cannot_execute("/plain", "permission denied");
}

#[test]
fn a_directory_fails_with_runcs_words() {
    cannot_execute("/etc", "is a directory");
}

#[test]
fn a_file_of_no_known_format_says_so() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.file("/broken", "\x7fELFrubbish", 0o755).program(&["/broken"]);
    sandbox.run(&bundle).refused("exec format error");
    sandbox.assert_nothing_left();
}

#[test]
fn a_script_with_a_missing_interpreter_fails() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.file("/script", "#!/no/interpreter\n", 0o755).program(&["/script"]);
    sandbox.run(&bundle).refused("no such file or directory");
}

#[test]
fn detached_it_returns_as_soon_as_the_program_runs() {
    let sandbox = Sandbox::new();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let bundle = sandbox.bundle();
    bundle.script("trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done");
    let (pid_file, id) = (sandbox.path().join("pid"), sandbox.id());
    let command = sandbox
        .cor(&["run", "--detach", "--pid-file"])
        .arg(&pid_file)
        .arg("--bundle")
        .arg(bundle.path())
        .arg(&id);
    let mut running = command.start();
    assert_eq!(vm_tests::until("run --detach", || running.ended()), 0);
    let state = sandbox.cor(&["state", &id]).ok();
    assert!(state.contains("\"running\""), "{state}");
    vm_tests::until("its first words", || running.output_so_far().text().contains("up").then_some(()));
    sandbox.cor(&["kill", &id]).run().expect(0);
    assert_eq!(Container::reap(std::fs::read_to_string(pid_file).unwrap().parse().unwrap()), 9);
    sandbox.cor(&["delete", &id]).run().expect(0);
    sandbox.assert_nothing_left();
}

#[test]
fn with_keep_the_stopped_container_stays() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("exit 6");
    let id = sandbox.id();
    sandbox.cor(&["run", "--keep", "--bundle"]).arg(bundle.path()).arg(&id).run().expect(6);
    let state: serde_json::Value = serde_json::from_str(&sandbox.cor(&["state", &id]).ok()).unwrap();
    assert_eq!((state["status"].as_str(), state["exitCode"].as_u64()), (Some("stopped"), Some(6)));
    sandbox.cor(&["delete", &id]).run().expect(0);
}

#[test]
fn signals_to_cor_run_reach_the_program() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("trap 'echo got usr1' USR1; trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done");
    let running = sandbox.run_command(&bundle).start();
    let shows =
        |words: &str| vm_tests::until(words, || running.output_so_far().text().contains(words).then_some(()));
    shows("up");
    running.signal(libc::SIGUSR1);
    shows("got usr1");
    running.signal(libc::SIGTERM);
    running.wait().expect(9);
    sandbox.assert_nothing_left();
}

#[test]
fn preserved_descriptors_are_refused_clearly() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let make = |command: &str| {
        sandbox.cor(&[command, "--preserve-fds", "1", "--bundle"]).arg(bundle.path()).arg(sandbox.id()).run()
    };
    make("run").refused("cannot be passed into a virtual machine");
    make("create").refused("cannot be passed into a virtual machine");
    sandbox.assert_nothing_left();
}

#[test]
fn the_bundle_is_the_working_directory_unless_named() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script("echo $VAR $PWD").change(|spec| {
        spec["process"]["cwd"] = "/home/user".into();
        spec["process"]["env"].as_array_mut().unwrap().push("VAR=a b=c".into());
    });
    let output = sandbox.cor(&["run", &sandbox.id()]).in_directory(bundle.path()).run().expect(0);
    assert_eq!(output.text(), "a b=c /home/user");
}
