//! What Docker has alone: its name service, restart policies, containers that outlive the daemon.

use crate::tests;
use crate::users::network::Network;
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use vm_tests::engine::{Daemon, Engine, image, runtime};
use vm_tests::{Command, until};

tests![
    containers_of_a_project_find_each_other,
    names_from_elsewhere_are_found_too,
    names_are_found_on_a_network_that_comes_later,
    a_program_may_serve_names_itself,
    limits_are_updated_and_shown,
    a_container_is_started_again_until_it_is_stopped,
    containers_live_on_without_the_daemon,
];

/// Three containers as compose starts them: one asks the second one, which asks the third one.
fn containers_of_a_project_find_each_other(engine: &Engine) {
    let network = Network::new(engine, &[]);
    let on = format!("--network={}", network.name);
    let serve = |answer: &str| format!("while :; do ( {answer} ) | nc -l -p 7000 >/dev/null; done");
    let store = engine.start(&[&on, "--network-alias=store"], &["sh", "-c", &serve("echo stored")]);
    let middle = serve("nc store 7000 </dev/null || echo nothing");
    let _middle = engine.start(&[&on, "--network-alias=middle"], &["sh", "-c", &middle]);
    let script = "until nc middle 7000 </dev/null | tee /tmp/answer | grep stored; do sleep 0.2; done; \
                  ! nslookup nobody.there >/dev/null && echo nobody; nslookup $1 | grep -o 'Address.*'; \
                  printf '\\0\\027\\1\\2\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\005store\\0\\0\\1\\0\\1' | nc 127.0.0.11 53 | tail -c 4 | hexdump -e '4/1 \"%u \"'";
    let output = engine.run(&[&on], &["sh", "-c", script, "sh", store.name()]).run().expect(0);
    let address = store.inspect(&format!("/NetworkSettings/Networks/{}/IPAddress", network.name));
    let address = address.as_str().expect("an address");
    let lines = output.lines();
    assert_eq!(lines[..2], ["stored", "nobody"], "{output}");
    assert!(lines.iter().any(|line| line.starts_with("Address") && line.contains(address)), "{output}");
    assert_eq!(
        lines.last().map(|line| line.trim().replace(' ', ".")),
        Some(address.into()),
        "by TCP: {output}"
    );
}

/// A name server on the host that knows one address for all names, until it is told to end.
fn name_server(at: SocketAddr) -> std::thread::JoinHandle<()> {
    let socket = UdpSocket::bind(at).expect("a socket");
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).expect("a question");
            if &buffer[..count] == b"end" {
                return;
            }
            // A response without an error, one answer behind the question alone: its name, A, IN, 60 s, four bytes.
            let end = buffer[12..count].iter().position(|byte| *byte == 0).expect("a name") + 12 + 5;
            let mut answer = buffer[..end].to_vec();
            let is_a = buffer[end - 3] == 1;
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            }
            socket.send_to(&answer, from).expect("an answer");
        }
    })
}

/// Docker asks other name servers from inside the network namespace.
fn names_from_elsewhere_are_found_too(engine: &Engine) {
    let network = Network::new(engine, &["--subnet=10.77.0.0/24", "--gateway=10.77.0.1"]);
    let server = "10.77.0.1:53".parse().expect("an address");
    let serving = name_server(server);
    let options = [&*format!("--network={}", network.name), "--dns=10.77.0.1", "--cap-add=NET_RAW"];
    let script = "for i in 1 2 3; do nslookup -type=a some.where | grep -c 192.0.2.99; done; ping -c 1 10.77.0.1 >/dev/null && echo pong";
    let output = engine.script(&options, script);
    UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"end", server)).expect("the end");
    serving.join().expect("the name server");
    assert_eq!(output.expect(0).lines(), ["1", "1", "1", "pong"]);
}

fn names_are_found_on_a_network_that_comes_later(engine: &Engine) {
    let network = Network::new(engine, &[]);
    let other = engine.start(&[&*format!("--network={}", network.name)], &["sleep", "1000"]);
    let container = engine.start(&["--network=bridge"], &["sleep", "1000"]);
    engine.command(&["network", "connect", &network.name, container.name()]).ok();
    until("the other's name", || {
        let output = container.exec(&[], &["nslookup", other.name()]).run();
        (output.code == 0).then_some(())
    });
    engine.command(&["network", "disconnect", &network.name, container.name()]).ok();
}

fn a_program_may_serve_names_itself(engine: &Engine) {
    let network = Network::new(engine, &[]);
    let script = "nc -l -p 53 >/tmp/got & for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; echo question | nc 127.0.0.1 53 && break; done 2>/dev/null; \
                  wait; cat /tmp/got; nslookup $(hostname) >/dev/null && echo found; netstat -ltun | grep -c ':53 '";
    let output = engine.script(&[&format!("--network={}", network.name)], script);
    assert_eq!(output.expect(1).lines(), ["question", "found", "0"]);
}

fn limits_are_updated_and_shown(engine: &Engine) {
    let container = engine.sleeping(&["--memory=128m", "--memory-swap=128m", "--pids-limit=100"]);
    let update = ["update", "--memory=96m", "--memory-swap=96m", "--cpus=0.25", "--pids-limit=50"];
    container.command(&update).ok();
    let limit = |name: &str| container.inspect(&format!("/HostConfig/{name}"));
    assert_eq!(
        (limit("Memory"), limit("NanoCpus"), limit("PidsLimit")),
        (json!(96 << 20), json!(250_000_000), json!(50))
    );
    let read = "cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max";
    assert_eq!(container.sh(read), "50");
    let too_little = container.command(&["update", "--memory=1m"]).run();
    assert_ne!(too_little.code, 0, "{too_little}");
}

fn a_container_is_started_again_until_it_is_stopped(engine: &Engine) {
    let container = engine.start(
        &["--restart=always"],
        &["sh", "-c", "echo again; while [ ! -e /end ]; do sleep 0.1; done; rm /end; exit 3"],
    );
    let starts = || container.logs().lines().len();
    for count in 1..=2 {
        until("a start", || (starts() == count).then_some(()));
        container.sh("touch /end");
    }
    until("a third start", || (starts() == 3).then_some(()));
    container.command(&["stop", "-t", "0"]).ok();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!((container.inspect("/State/Running"), starts()), (json!(false), 3));
    assert_eq!(container.inspect("/RestartCount"), json!(2));
}

/// A second daemon, in a network namespace of its own.
struct Second(PathBuf);

/// Its name.
const SECOND: &str = "second-docker";

impl Second {
    fn docker(&self, args: &[&str]) -> Command {
        Command::new("docker")
            .arg("--host")
            .arg(format!("unix://{}", self.0.join("socket").display()))
            .args(args)
    }

    fn start(&self) -> Daemon {
        let at = |name: &str| self.0.join(name).display().to_string();
        let command = Command::new("nsenter").arg(format!("--net=/run/netns/{SECOND}"));
        let command = command.args(["dockerd", "--live-restore"]);
        let command = command.args(["--config-file", &at("none.json"), "--data-root", &at("data")]);
        let command = command.args(["--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        let runtime = runtime();
        let command =
            command.args(["--host", &format!("unix://{}", at("socket")), "--default-runtime", &runtime]);
        let command = if runtime == "runc" {
            command
        } else {
            let path = if runtime == "cor" { "/usr/local/bin/cor" } else { "/usr/bin/crun" };
            command.args(["--add-runtime", &format!("{runtime}={path}")])
        };
        Daemon::start(command, &at("socket"), &at("log"), &self.docker(&["version"]))
    }
}

fn containers_live_on_without_the_daemon(_: &Engine) {
    let second = Second(Path::new("/run").join(SECOND));
    std::fs::create_dir(&second.0).expect("a directory");
    Command::new("ip").args(["netns", "add", SECOND]).ok();
    std::fs::write(second.0.join("none.json"), "{}").expect("a configuration");
    let daemon = second.start();
    Engine::load(second.docker(&["load", "--input"]));
    second.docker(&["network", "create", "net"]).ok();
    let script = "trap 'exit 21' TERM; i=0; while :; do echo tick-$i.; i=$((i+1)); sleep 0.2; done";
    second.docker(&["run", "--detach", "--name=one", "--network=net", image::NAME, "sh", "-c", script]).ok();
    let pid = || second.docker(&["inspect", "--format={{.State.Pid}} {{.State.Running}}", "one"]).ok();
    let ticks = || second.docker(&["logs", "one"]).run().expect(0).lines().len();
    let before = pid();
    until("output", || (ticks() > 2).then_some(()));
    daemon.stop(libc::SIGTERM);
    let process = before.split(' ').next().expect("a pid");
    assert!(Path::new("/proc").join(process).exists(), "process {process} of the container lives");
    let daemon = second.start();
    assert_eq!(pid(), before, "{}", daemon.said());
    let seen = ticks();
    until("more output", || (ticks() > seen).then_some(()));
    let all = second.docker(&["logs", "one"]).run().expect(0).lines();
    assert!(all.iter().enumerate().all(|(i, line)| *line == format!("tick-{i}.")), "no line is lost");
    let inside = "nslookup one >/dev/null && echo found";
    assert_eq!(second.docker(&["exec", "one", "sh", "-c", inside]).ok(), "found");
    second.docker(&["stop", "-t", "20", "one"]).ok();
    assert_eq!(second.docker(&["inspect", "--format={{.State.ExitCode}}", "one"]).ok(), "21");
    second.docker(&["rm", "one"]).ok();
    daemon.stop(libc::SIGTERM);
    Command::new("ip").args(["netns", "delete", SECOND]).ok();
}
