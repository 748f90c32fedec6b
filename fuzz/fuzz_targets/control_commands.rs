//! A client at the control socket: each line is answered by one line, in order, and no descriptor is kept that nobody asked for.
//!
//! The first byte says in what pieces the rest arrives, and whether descriptors come with those that add something or with the others: two
//! where pairs of queues are named.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use vmm::control::Commands;
use vmm::control::connection::{Connection, Turn};
use vmm::control::protocol::{Outcome, Request};
use vmm::event_loop::EventLoop;
use vmm::vcpu::exit::ExitReason;

/// A machine that checks what it is asked for.
struct Machine;

impl Commands for Machine {
    fn run(
        &mut self,
        _: &mut EventLoop,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> (Outcome, Option<ExitReason>) {
        assert_eq!(request.files(), files.len());
        let line = request.to_line();
        assert_eq!(Request::parse(&line[..line.len() - 1]).expect("what was read can be written"), request);
        let ended = (request == Request::Shutdown).then_some(ExitReason::Shutdown);
        (Outcome::ok(&request.name()), ended)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (client, socket) = UnixStream::pair().expect("sockets");
    socket.set_nonblocking(true).expect("a socket");
    let mut events = EventLoop::new().expect("an event loop");
    let mut connection = Connection::new(socket.into());
    let mut answers = Vec::new();
    'pieces: for piece in bytes.chunks(usize::from(*cut & 127) * 8 + 1) {
        let adds = piece.windows(4).any(|part| part == b"add-");
        let several = piece.windows(6).any(|part| part == b"queues");
        send(&client, piece, if adds == (*cut < 128) { 1 + usize::from(several) } else { 0 });
        loop {
            let turn = connection.turn(&mut events, &mut Machine);
            let mut answer = [0; 4096];
            while let Ok((count @ 1.., _)) = recv(&client, &mut answer, RecvFlags::DONTWAIT) {
                answers.extend_from_slice(&answer[..count]);
            }
            match turn {
                Turn::More => {}
                Turn::Waits if connection.is_full() => {}
                Turn::Waits => break,
                Turn::Over | Turn::Ended(_) => break 'pieces,
            }
        }
    }
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    let answers: Vec<_> = answers.split_inclusive(|byte| *byte == b'\n').collect();
    assert!(answers.len() <= lines + 1, "{} answers for {lines} lines", answers.len());
    for answer in answers {
        let outcome = answer.strip_suffix(b"\n").map(Outcome::parse);
        if let Outcome::Error(reason) = outcome.expect("a whole line").expect("that can be read") {
            fuzz::check_message(&reason);
            assert!(reason.len() < 1000, "{reason:?} is long");
        }
    }
});

fn send(client: &UnixStream, piece: &[u8], files: usize) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = vec![client.as_fd(); files];
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&files));
    }
    // A client that was hung up on.
    let _ = sendmsg(client, &[IoSlice::new(piece)], &mut control, SendFlags::NOSIGNAL);
}
