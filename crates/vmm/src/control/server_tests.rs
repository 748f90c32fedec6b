//! Clients that behave, and clients that do not, at a server whose machine only counts.

use super::super::client::Client as Caller;
use super::super::protocol::{AddDisk, AddNet, MAX_FILES, MAX_LINE, Outcome, Request};
use super::super::socket;
use super::*;
use crate::event_loop::Controller;
use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A machine that notes what it is asked for.
struct Notes {
    seen: Sender<(Request, Vec<OwnedFd>)>,
    answer: usize,
}

impl Commands for Notes {
    fn run(
        &mut self,
        _: &mut EventLoop,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> (Outcome, Option<ExitReason>) {
        let ended = (request == Request::Shutdown).then_some(ExitReason::Shutdown);
        let _ = self.seen.send((request, files));
        (Outcome::ok(&"x".repeat(self.answer)), ended)
    }
}

struct Machine(Server, Notes);

impl Controller for Machine {
    fn ready(&mut self, events: &mut EventLoop, number: u16) -> Option<ExitReason> {
        self.0.ready(events, &mut self.1, number)
    }
    fn woken(&mut self, events: &mut EventLoop) -> Option<ExitReason> {
        self.0.woken(events, &mut self.1)
    }
}

/// A server on a thread of its own, until somebody asks for `shutdown`.
struct Bench {
    path: PathBuf,
    seen: Receiver<(Request, Vec<OwnedFd>)>,
    thread: Option<std::thread::JoinHandle<ExitReason>>,
    _directory: tempfile::TempDir,
}

fn bench(answer: usize) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c");
    let (socket, bound) = socket::bind(&path).unwrap();
    let socket = Socket::Listening(socket);
    let (sender, seen) = channel();
    let thread = std::thread::spawn(move || {
        let mut events = EventLoop::new().unwrap();
        let server = Server::new(&events, socket).unwrap();
        let reason = events.run(&mut Machine(server, Notes { seen: sender, answer }), || None).unwrap();
        drop(bound);
        reason
    });
    Bench { path, seen, thread: Some(thread), _directory: directory }
}

impl Bench {
    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    /// Whoever was there before: another client is served.
    fn still_works(&self) {
        Caller::connect(&self.path).unwrap().call(&Request::State, &[]).unwrap();
        while self.seen.recv().unwrap().0 != Request::State {}
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        Caller::connect(&self.path).unwrap().call(&Request::Shutdown, &[]).unwrap();
        assert_eq!(self.thread.take().unwrap().join().unwrap(), ExitReason::Shutdown);
        assert!(!self.path.exists());
    }
}

fn send(stream: &UnixStream, bytes: &[u8], files: &[&std::fs::File]) {
    let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(files.is_empty() || control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(sent, bytes.len());
}

fn answers(stream: &UnixStream, count: usize) -> Vec<Outcome> {
    let lines = BufReader::new(stream).lines().take(count);
    lines.map(|line| Outcome::parse(line.unwrap().as_bytes()).unwrap()).collect()
}

fn refusal(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Error(reason) => reason,
        Outcome::Ok(_) => panic!("it was done"),
    }
}

const STATE: &[u8] = b"{\"version\":1,\"command\":\"state\"}\n";

fn add() -> Vec<u8> {
    Request::AddDisk(AddDisk { id: "a".to_string(), readonly: false, limits: Default::default() }).to_line()
}

#[test]
fn several_lines_in_one_packet_and_one_line_in_several() {
    let bench = bench(1);
    let stream = bench.connect();
    send(&stream, &STATE.repeat(20), &[]);
    assert_eq!(answers(&stream, 20).len(), 20);
    for byte in STATE {
        send(&stream, &[*byte], &[]);
    }
    assert_eq!(answers(&stream, 1).len(), 1);
    send(&stream, b"nonsense\n\n{\"version\":1,\"command\":\"state\"}\n", &[]);
    let three = answers(&stream, 3);
    assert!(refusal(&three[0]).contains("no request") && refusal(&three[1]).contains("no request"));
    assert!(matches!(three[2], Outcome::Ok(_)));
    // What was asked before the end is answered, half a line is forgotten.
    send(&stream, &[STATE, &STATE[..9]].concat(), &[]);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    (&stream).read_to_string(&mut rest).unwrap();
    assert_eq!(rest.lines().count(), 1);
    bench.still_works();
}

#[test]
fn a_descriptor_belongs_to_the_line_that_needs_one() {
    let bench = bench(1);
    let stream = bench.connect();
    let file = tempfile::tempfile().unwrap();
    send(&stream, &add(), &[]);
    assert!(refusal(&answers(&stream, 1)[0]).contains("the opened file is missing"));
    send(&stream, &[STATE, STATE, &add(), STATE].concat(), &[&file]);
    assert!(answers(&stream, 4).iter().all(|outcome| matches!(outcome, Outcome::Ok(_))));
    let files: Vec<usize> = (0..4).map(|_| bench.seen.recv().unwrap().1.len()).collect();
    assert_eq!(files, [0, 0, 1, 0]);
    send(&stream, &add()[..10], &[&file]);
    send(&stream, &add()[10..], &[]);
    assert!(matches!(answers(&stream, 1)[0], Outcome::Ok(_)));
    assert_eq!(bench.seen.recv().unwrap().1.len(), 1);
}

#[test]
fn a_network_comes_with_a_descriptor_for_each_pair_of_queues() {
    let bench = bench(1);
    let (stream, file) = (bench.connect(), tempfile::tempfile().unwrap());
    let add = |queues: usize| {
        let (mac, id) = ([2, 0, 0, 0, 0, 1], "n".to_string());
        let (rx, tx) = Default::default();
        Request::AddNet(AddNet { id, mac, queues, rx, tx }).to_line()
    };
    for queues in [1, 3, MAX_FILES] {
        send(&stream, &add(queues), &vec![&file; queues]);
        assert!(matches!(answers(&stream, 1)[0], Outcome::Ok(_)));
        assert_eq!(bench.seen.recv().unwrap().1.len(), queues);
    }
    for (queues, given, reason) in [
        (3, 2, "it takes 3 descriptor(s) and got 2"),
        (1, 2, "it takes 1 descriptor(s) and got 2"),
        (2, 0, "is missing"),
    ] {
        send(&stream, &add(queues), &vec![&file; given]);
        assert!(refusal(&answers(&stream, 1)[0]).contains(reason));
    }
    bench.still_works();
}

/// What is sent here must not stay open in the server: its other end sees the end.
#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let bench = bench(1);
    for (line, reason) in [
        (STATE.to_vec(), "state: it takes no descriptor"),
        (b"nonsense\n".to_vec(), "no request"),
        (b"{\"version\":1,\"command\":\"fly\"}\n".to_vec(), "unknown command"),
    ] {
        let stream = bench.connect();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = std::fs::File::from(OwnedFd::from(theirs));
        send(&stream, &line, &[&theirs]);
        drop(theirs);
        assert!(refusal(&answers(&stream, 1)[0]).contains(reason));
        assert_eq!((&ours).read(&mut [0]).unwrap(), 0, "{reason}");
    }
    let stream = bench.connect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = std::fs::File::from(OwnedFd::from(theirs));
    for count in [MAX_FILES + 1, MAX_FILES + 4] {
        let stream = bench.connect();
        send(&stream, &add(), &vec![&theirs; count]);
        assert!(refusal(&answers(&stream, 1)[0]).contains("at most 8"));
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "it hangs up");
    }
    send(&stream, b"{", &[&theirs]);
    send(&stream, b"}", &[&theirs]);
    assert!(refusal(&answers(&stream, 1)[0]).contains("the descriptors of one line at a time"));
    // And one whose client goes away in the middle of a line.
    let gone = bench.connect();
    send(&gone, b"{\"version\":1,", &[&theirs]);
    drop((gone, theirs));
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
    bench.still_works();
}

#[test]
fn a_line_without_end_is_refused_and_nobody_else_minds() {
    let bench = bench(1);
    let stream = bench.connect();
    let mut writer = stream.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        // Ends when the server hangs up.
        while writer.write_all(&[b' '; 1000]).is_ok() {}
    });
    assert_eq!(refusal(&answers(&stream, 1)[0]), format!("a line has at most {MAX_LINE} bytes"));
    drop(stream);
    flood.join().unwrap();
    bench.still_works();
}

#[test]
fn a_client_that_does_not_read_stops_only_itself() {
    let bench = bench(100_000);
    let stream = bench.connect();
    stream.set_nonblocking(true).unwrap();
    let mut asked = 0;
    while (&stream).write_all(STATE).is_ok() {
        asked += 1;
    }
    bench.still_works();
    assert!(bench.seen.try_iter().count() < asked, "most of it waits");
}

#[test]
fn the_silent_make_room() {
    let bench = bench(1);
    let clients: Vec<_> = (0..3 * MAX_CLIENTS).map(|_| bench.connect()).collect();
    bench.still_works();
    assert_eq!((&clients[0]).read(&mut [0]).unwrap(), 0);
    let last = clients.last().unwrap();
    send(last, STATE, &[]);
    assert_eq!(answers(last, 1).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_pieces(pieces in prop::collection::vec((prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 1..40),
        3 => Just(STATE.to_vec()),
        2 => Just(add()),
        1 => Just(b"\n".to_vec()),
        1 => Just(vec![b'x'; 5000]),
    ], 0..3usize), 1..12)) {
        let bench = bench(10);
        let (stream, file) = (bench.connect(), tempfile::tempfile().unwrap());
        stream.set_nonblocking(true).unwrap();
        for (bytes, files) in pieces {
            let files: Vec<_> = (0..files).map(|_| file.as_fd()).collect();
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let _ = files.is_empty() || control.push(SendAncillaryMessage::ScmRights(&files));
            // It fails when the server has hung up.
            if sendmsg(&stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
        bench.still_works();
    }
}
