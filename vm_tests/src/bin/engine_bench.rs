//! What `cargo xtask bench --only engines` runs: containers of Podman and Docker with `cor`, in turn with the same ones with crun.
//!
//! ```text
//!   run      `run --rm true`: ratio, and where the time goes, by the container's timeline
//!   network  between a container of Podman's bridge and its host: 64 bytes there and back, a stream each way
//!   many     50 containers at once: until all run, what they take of the host's memory, what is left of them
//! ```
//!
//! `engine_bench ROUNDS`; it goes into an arena of its own (`vm_tests::engine::arena`).

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use vm_tests::Command;
use vm_tests::engine::{DOCKER, Engine, PODMAN, arena, image};

/// Containers that are started at once.
const MANY: usize = 50;

/// Questions of 64 bytes for one figure.
const QUESTIONS: usize = 200;

/// Bytes of a stream.
const STREAM: usize = 64 << 20;

/// Where Docker has its runtime keep containers.
const DOCKERS_ROOT: &str = "/run/docker/runtime-runc/moby";

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let arena = arena::enter();
    for engine in [&PODMAN, &DOCKER] {
        run(engine, rounds);
    }
    network(rounds.min(5));
    for runtime in ["cor", "crun"] {
        many(runtime);
    }
    Engine::stop_all();
    let left = arena.left();
    arena::clear();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// `ENGINE run OPTIONS IMAGE ARGS` with a runtime.
fn with(engine: &Engine, runtime: &str, options: &[&str], args: &[&str]) -> Command {
    let command = if engine.is_docker() {
        engine.command(&["run", "--runtime", runtime])
    } else {
        let path = if runtime == "cor" { "/usr/local/bin/cor".into() } else { format!("/usr/bin/{runtime}") };
        engine.command(&["--runtime", &path, "run"])
    };
    command.args(options).arg(image::NAME).args(args)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn run(engine: &Engine, rounds: usize) {
    println!("\n{} run --rm true:", engine.name());
    let mut times = [Vec::new(), Vec::new()];
    let mut shares: Vec<[f64; 4]> = Vec::new();
    for round in 0..=rounds {
        for (runtime, times) in ["cor", "crun"].iter().zip(&mut times) {
            let file = format!("/tmp/clear-bench-{}-{round}-{runtime}", engine.name());
            let command = with(engine, runtime, &["--rm", "--network=none", "--cidfile", &file], &["true"]);
            let begin = Instant::now();
            command.run().expect(0);
            let whole = milliseconds(begin);
            let id = std::fs::read_to_string(&file).expect("the container's id");
            std::fs::remove_file(&file).expect("removing a file");
            // The first one fills caches.
            if round > 0 {
                times.push(whole);
                if *runtime == "cor" {
                    shares.push(shares_of(engine, &id, whole));
                }
            }
        }
    }
    let [ours, theirs] = times;
    let (a, b) = (line("with cor", ours, "ms"), line("with crun", theirs, "ms"));
    println!("{:<44} {:>10.2} x", "ratio", a / b);
    for (index, name) in ["engine", "cor and keeper", "machine", "agent and program"].iter().enumerate() {
        line(&format!("  {name}"), shares.iter().map(|shares| shares[index]).collect(), "ms");
    }
}

/// Milliseconds of engine, `cor` with the keeper, the machine's begin and end, and the agent with the program.
fn shares_of(engine: &Engine, id: &str, whole: f64) -> [f64; 4] {
    let mut cor = Command::new("cor");
    if engine.is_docker() {
        cor = cor.args(["--root", DOCKERS_ROOT]);
    }
    let record: Value = serde_json::from_str(&cor.args(["trace", "--json", id]).ok()).expect("JSON");
    let stamps = record["timeline"].as_array().expect("a timeline");
    let at = |name: &str| {
        let stamp = stamps.iter().find(|stamp| stamp["name"] == name);
        stamp.and_then(|stamp| stamp["at_us"].as_f64()).unwrap_or_else(|| panic!("no {name:?} in {record}"))
            / 1000.0
    };
    let machine = at("agent called") - at("VMM started") + at("machine ended") - at("output delivered");
    let agent = at("created") - at("set-up sent") + at("output delivered") - at("start");
    let host = at("VMM started") + at("set-up sent") - at("agent called");
    [whole - machine - agent - host, host, machine, agent]
}

fn network(rounds: usize) {
    println!("\nnetwork, between a container of Podman and its host:");
    let mut figures: [[Vec<f64>; 3]; 2] = Default::default();
    for round in 0..=rounds {
        for (runtime, figures) in ["cor", "crun"].iter().zip(&mut figures) {
            let measured = network_once(runtime);
            for (values, value) in figures.iter_mut().zip(measured) {
                if round > 0 {
                    values.push(value);
                }
            }
        }
    }
    let [ours, theirs] = figures;
    let what =
        [("64 bytes there and back", "ms"), ("stream to the host", "MiB/s"), ("stream from it", "MiB/s")];
    for (((name, unit), ours), theirs) in what.into_iter().zip(ours).zip(theirs) {
        let a = line(&format!("{name}, with cor"), ours, unit);
        let b = line(&format!("{name}, with crun"), theirs, unit);
        println!("{:<44} {:>10.2} x", "  ratio", a / b);
    }
}

/// Milliseconds for a question and its answer; MiB/s to the host and from it.
fn network_once(runtime: &str) -> [f64; 3] {
    let listeners = [7001, 7002, 7003].map(|port| TcpListener::bind(("0.0.0.0", port)).expect("a port"));
    let script = "host=$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); nc $host 7001 -e cat; \
                  nc $host 7002 -e dd if=/dev/zero bs=64k count=1024; nc $host 7003 -e dd of=/dev/null bs=64k";
    let mut container = with(&PODMAN, runtime, &["--rm", "--network=podman"], &["sh", "-c", script]).start();
    let accept = |listener: &TcpListener| {
        let socket = listener.accept().expect("a connection").0;
        socket.set_nodelay(true).expect("TCP_NODELAY");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        socket
    };
    let latency = ask(accept(&listeners[0]));
    let sent = receive(accept(&listeners[1]));
    let received = send(accept(&listeners[2]));
    vm_tests::until("the end of the container", || container.ended());
    [latency, sent, received]
}

fn ask(mut socket: TcpStream) -> f64 {
    let mut answer = [0; 64];
    let begin = Instant::now();
    for _ in 0..QUESTIONS {
        socket.write_all(&[7; 64]).expect("sending");
        socket.read_exact(&mut answer).expect("an answer");
    }
    milliseconds(begin) / QUESTIONS as f64
}

fn rate(begin: Instant) -> f64 {
    STREAM as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64()
}

fn receive(mut socket: TcpStream) -> f64 {
    let (mut buffer, mut count, begin) = (vec![0; 64 << 10], 0, Instant::now());
    loop {
        match socket.read(&mut buffer).expect("a stream") {
            0 => break,
            some => count += some,
        }
    }
    assert_eq!(count, STREAM);
    rate(begin)
}

fn send(mut socket: TcpStream) -> f64 {
    let (buffer, begin) = (vec![0; 64 << 10], Instant::now());
    for _ in 0..STREAM / buffer.len() {
        socket.write_all(&buffer).expect("sending");
    }
    socket.shutdown(Shutdown::Write).expect("an end");
    // The other side closes when it has read all.
    socket.read_exact(&mut [0]).expect_err("an end of the connection");
    rate(begin)
}

fn many(runtime: &str) {
    println!("\n{MANY} containers at once, podman with {runtime}:");
    let before = available_mib();
    let names: Vec<String> = (0..MANY).map(|number| format!("many{number}")).collect();
    let begin = Instant::now();
    let starts: Vec<_> = names
        .iter()
        .map(|name| {
            let options = ["--detach", "--network=none", "--memory=64m", "--name", name];
            with(&PODMAN, runtime, &options, &["sleep", "100000"]).patience(600).start()
        })
        .collect();
    starts.into_iter().for_each(|start| _ = start.wait().expect(0));
    println!("{:<44} {:>10.2} s", "until all run", begin.elapsed().as_secs_f64());
    for name in &names {
        let exec = PODMAN.command(&["exec", name, "echo", "up"]).patience(120);
        assert_eq!(exec.run().expect(0).text(), "up");
    }
    println!("{:<44} {:>10.2} MiB", "memory of the host for each", (before - available_mib()) / MANY as f64);
    let begin = Instant::now();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    PODMAN.command(&["rm", "--force", "--time=0"]).args(all).patience(600).run().expect(0);
    println!("{:<44} {:>10.2} s", "until all are removed", begin.elapsed().as_secs_f64());
    let kept = ["/run/clear-containers", "/run/crun"].iter().filter(|root| Path::new(root).is_dir());
    let left: usize = kept.map(|root| containers_in(root)).sum();
    println!("{:<44} {left:>10}", "containers that the runtime still knows");
    assert_eq!(left, 0);
}

/// Directories of containers.
fn containers_in(root: &str) -> usize {
    let entries = std::fs::read_dir(root).expect("the runtime's directory").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().len() == 64).count()
}

fn available_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("MemAvailable");
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kib / 1024.0
}

/// One line of a table; returns the median.
fn line(name: &str, mut values: Vec<f64>, unit: &str) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    println!(
        "{name:<44} {:>10.2} {unit:<5} (middle half {:.2} to {:.2}, n={})",
        at(0.5),
        at(0.25),
        at(0.75),
        values.len()
    );
    at(0.5)
}
