//! Writes the inputs that fuzzing begins with: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.
//!
//! Inputs are real ones: the golden containers, the documented configuration file, and messages of a whole conversation.

mod machine;

use guest_protocol::CONTROL_PORT;
use guest_protocol::frame::{self, MAX_TO_GUEST, MAX_TO_HOST};
use guest_protocol::message::{
    AgentError, CgroupLimits, ErrorKind, Event, ExitStatus, FromAgent, Hello, Process, ProcessInfo, Reply,
    Request, RequestBody, Stamp, TerminalSize,
};
use guest_protocol::mux::{Mux, Side};
use sandbox::bundle::{Bundle, Sources, spec};
use sandbox::keeper::protocol;
use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = root.join("../crates/sandbox/tests/golden");
    for case in fs::read_dir(&golden)? {
        let case = case?.path();
        let Some(name) = case.file_name().and_then(|name| name.to_str()) else { continue };
        for (target, file) in [("config_json", "config.json"), ("configuration_toml", "configuration.toml")] {
            if let Ok(text) = fs::read(case.join(file)) {
                put(root, target, name, &text)?;
            }
        }
    }
    put(root, "configuration_toml", "default", sandbox::configuration::DEFAULT_FILE.as_bytes())?;
    put(root, "process_json", "spec", spec()["process"].to_string().as_bytes())?;
    put(
        root,
        "process_json",
        "small",
        br#"{"cwd":"/","user":{"uid":1,"gid":2,"additionalGids":[3]},"args":["a"]}"#,
    )?;
    put(root, "mini_os_manifest", "whole", serde_json::to_string(&fuzz::mini_os())?.as_bytes())?;
    put(root, "agent_requests", "conversation", &framed(&requests(), MAX_TO_GUEST))?;
    put(root, "keeper_requests", "requests", &framed(&commands(), protocol::MAX_FRAME))?;
    put(root, "keeper_requests", "replies", &framed(&replies(), protocol::MAX_FRAME))?;
    put(root, "guest_frames", "conversation", &channel())?;
    put(root, "guest_frames", "flood", &flood())?;
    machine::write(root)
}

fn put(root: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let directory: PathBuf = root.join("seeds").join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(name), bytes)
}

/// Messages as frames, behind the byte that says where the stream is cut.
fn framed<T: serde::Serialize>(messages: &[T], limit: usize) -> Vec<u8> {
    let frames = messages.iter().map(|message| frame::encode(message, limit).expect("short enough"));
    std::iter::once(7).chain(frames.flatten()).collect()
}

fn requests() -> Vec<Request> {
    let container = || "web".to_string();
    let bundle =
        Bundle::new("/bundle".into(), spec().to_string().as_bytes(), Sources::new()).expect("`cor spec`");
    let plan = fuzz::planned(&bundle).expect("`cor spec` can be planned");
    let process = Box::new(Process { args: vec!["ps".into()], cwd: "/".into(), ..Process::default() });
    let size = TerminalSize { rows: 24, columns: 80 };
    let bodies = [
        RequestBody::Setup(Box::new(plan.guest)),
        RequestBody::Start { container: container() },
        RequestBody::Exec { container: container(), process_id: 1, process },
        RequestBody::Signal { container: container(), process_id: 0, signal: 15, all: true },
        RequestBody::Resize { container: container(), process_id: 1, size },
        RequestBody::Processes { container: container() },
        RequestBody::Statistics { container: container() },
        RequestBody::Update { container: container(), limits: Box::new(CgroupLimits::default()) },
        RequestBody::Shutdown,
    ];
    bodies.into_iter().zip(1..).map(|(body, id)| Request { id, body }).collect()
}

fn commands() -> Vec<protocol::Request> {
    let process = Box::new(Process { args: vec!["sh".into()], cwd: "/".into(), ..Process::default() });
    vec![
        protocol::Request::Start,
        protocol::Request::Exec { process, ignore_paused: false },
        protocol::Request::Resize(TerminalSize { rows: 1, columns: 2 }),
        protocol::Request::KillExec { signal: 9 },
        protocol::Request::Kill { signal: 15, all: false },
        protocol::Request::Update { guest: Box::default(), host: Box::default() },
        protocol::Request::Pause,
        protocol::Request::Resume,
        protocol::Request::Processes,
        protocol::Request::Statistics,
    ]
}

fn replies() -> Vec<protocol::Reply> {
    vec![
        protocol::Reply::Done,
        protocol::Reply::Executed { guest_pid: 12 },
        protocol::Reply::Processes(vec![ps()]),
        protocol::Reply::Statistics(Box::default()),
        protocol::Reply::Failed { kind: ErrorKind::NotRunning, message: "container not running".into() },
        protocol::Reply::Exited(ExitStatus::Signal(9)),
    ]
}

fn ps() -> ProcessInfo {
    ProcessInfo { pid: 1, parent: 0, uid: 0, cpu_ms: 5, started_s: 1, command: "sh -c x".into() }
}

/// What an agent says from its hello to the exit of a program with some output.
fn channel() -> Vec<u8> {
    let stamps = vec![Stamp { name: "init".into(), boottime_us: 1000 }];
    let hello =
        Hello { version: guest_protocol::VERSION, agent: "0.1.0".into(), kernel: "6.12.0".into(), stamps };
    let exited = Event::Exited {
        container: "web".into(),
        process_id: 0,
        status: ExitStatus::Code(3),
        oom_killed: false,
    };
    let error = AgentError::new(ErrorKind::CommandNotFound, "no such program");
    let messages = [
        FromAgent::Hello(hello),
        FromAgent::Reply { id: 1, result: Ok(Reply::Created { pid: 12 }) },
        FromAgent::Reply { id: 2, result: Ok(Reply::Processes(vec![ps()])) },
        FromAgent::Reply { id: 3, result: Ok(Reply::Statistics(Box::default())) },
        FromAgent::Reply { id: 4, result: Err(error) },
        FromAgent::Event(Event::Warning("low on memory".into())),
        FromAgent::Event(exited),
    ];
    let mut guest = Mux::new(Side::Guest);
    let control = guest.open(CONTROL_PORT);
    let output = guest.open(guest_protocol::FIRST_STDIO_PORT);
    guest.send(output, b"hello from the guest\n");
    guest.finish(output);
    let stranger = guest.open(7);
    guest.reset(stranger);
    for message in &messages {
        guest.send(control, &frame::encode(message, MAX_TO_HOST).expect("short enough"));
    }
    guest.finish(control);
    let mut bytes = vec![0x4f];
    while !guest.output().is_empty() {
        let part = guest.output().to_vec();
        bytes.extend_from_slice(&part);
        guest.sent(part.len());
    }
    bytes
}

/// Streams to ports that do not exist, one after the other.
fn flood() -> Vec<u8> {
    let mut guest = Mux::new(Side::Guest);
    for _ in 0..300 {
        guest.open(7);
    }
    std::iter::once(0xf0).chain(guest.output().iter().copied()).collect()
}
