//! A connection between a model guest and a model socket, driven by arbitrary steps: bytes in are bytes out, in order, within
//! the credit, and nothing waits for ever.

use super::*;
use proptest::prelude::*;

const WINDOW: u32 = 64;

/// A guest that keeps to the protocol.
struct Guest {
    to_send: VecDeque<u8>,
    sent: u32,
    device_window: u32,
    device_forwarded: u32,
    buffer: Vec<u8>,
    buffer_size: u32,
    consumed: u32,
    told: u32,
    read: Vec<u8>,
    shutdown: u32,
    device_shutdown: u32,
    update_due: bool,
    connected: bool,
    reset: bool,
}

/// A stream socket with a small buffer, and the program behind it.
#[derive(Default)]
struct Socket {
    to_guest: VecDeque<u8>,
    ended: bool,
    space: usize,
    pipe: VecDeque<u8>,
    read: Vec<u8>,
}

struct World {
    connection: Connection,
    guest: Guest,
    socket: Socket,
}

#[derive(Debug, Clone)]
enum Step {
    GuestSends(usize),
    GuestReads(usize),
    DeviceEmits(usize),
    HostReads(usize),
    GuestEnds,
    HostEnds,
    GuestAsks,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..50usize).prop_map(Step::GuestSends),
        3 => (1..50usize).prop_map(Step::GuestReads),
        6 => (1..40usize).prop_map(Step::DeviceEmits),
        3 => (1..50usize).prop_map(Step::HostReads),
        1 => Just(Step::GuestEnds),
        1 => Just(Step::HostEnds),
        1 => Just(Step::GuestAsks),
    ]
}

impl World {
    fn new(up: &[u8], down: &[u8], buffer_size: u32, space: usize, start: u32) -> Self {
        // Counters start anywhere, so that wrapping is met.
        let mut connection = Connection::accepted(WINDOW, buffer_size, start);
        (connection.sent, connection.received) = (start, start);
        (connection.forwarded, connection.reported) = (start, start);
        let guest = Guest {
            to_send: up.iter().copied().collect(),
            sent: start,
            device_window: 0,
            device_forwarded: start,
            buffer: Vec::new(),
            buffer_size,
            consumed: start,
            told: start,
            read: Vec::new(),
            shutdown: 0,
            device_shutdown: 0,
            update_due: false,
            connected: false,
            reset: false,
        };
        let socket = Socket { to_guest: down.iter().copied().collect(), space, ..Socket::default() };
        Self { connection, guest, socket }
    }

    /// The guest's packet; what the socket takes goes there, the rest is kept.
    fn deliver(&mut self, op: Op, flags: u32, payload: &[u8]) {
        self.guest.told = self.guest.consumed;
        self.guest.update_due = false;
        let (size, consumed) = (self.guest.buffer_size, self.guest.consumed);
        let received = self.connection.receive(Some(op), flags, payload.len() as u32, size, consumed);
        assert_ne!(received, Received::Violation, "{op:?}");
        assert_eq!(received == Received::Data, op == Op::Data);
        if received == Received::Data {
            let direct = match self.connection.is_waiting() {
                true => 0,
                false => payload.len().min(self.socket.space - self.socket.pipe.len()),
            };
            self.socket.pipe.extend(&payload[..direct]);
            self.connection.forward(direct);
            self.connection.keep(&payload[direct..]);
        }
        let kept = self.connection.received.wrapping_sub(self.connection.forwarded);
        assert_eq!(kept as usize, self.connection.kept.len());
        assert!(kept <= WINDOW);
    }

    fn guest_sends(&mut self, most: usize) -> bool {
        let credit = self.guest.device_window - self.guest.sent.wrapping_sub(self.guest.device_forwarded);
        let count = most.min(credit as usize).min(self.guest.to_send.len());
        if count == 0 || !self.guest.connected || self.guest.shutdown & SHUTDOWN_SEND != 0 {
            return false;
        }
        let payload: Vec<u8> = self.guest.to_send.drain(..count).collect();
        self.guest.sent = self.guest.sent.wrapping_add(count as u32);
        self.deliver(Op::Data, 0, &payload);
        true
    }

    fn guest_reads(&mut self, most: usize) -> bool {
        let count = most.min(self.guest.buffer.len());
        self.guest.read.extend(self.guest.buffer.drain(..count));
        self.guest.consumed = self.guest.consumed.wrapping_add(count as u32);
        // As Linux does, it speaks up once it has told of little room and now has more.
        let unread_for_device = self.connection.sent.wrapping_sub(self.guest.told);
        if count > 0 && unread_for_device * 2 >= self.guest.buffer_size || self.guest.update_due {
            self.deliver(Op::CreditUpdate, 0, &[]);
            return true;
        }
        count > 0
    }

    fn device_emits(&mut self, room: usize) -> bool {
        let readable = !self.socket.to_guest.is_empty() || self.socket.ended;
        let Some(mut packet) = self.connection.next(readable) else { return false };
        let mut payload = Vec::new();
        if let Outgoing::Data(credit) = packet {
            let count = room.min(credit as usize).min(self.socket.to_guest.len());
            if count == 0 {
                self.connection.host_sends_no_more();
                return true;
            }
            payload.extend(self.socket.to_guest.drain(..count));
            packet = Outgoing::Data(count as u32);
        }
        self.connection.emitted(packet);
        self.guest.device_window = self.connection.window();
        self.guest.device_forwarded = self.connection.forwarded();
        match packet {
            Outgoing::Data(_) => self.guest.buffer.extend(payload),
            Outgoing::Control(Op::Response, _) => self.guest.connected = true,
            Outgoing::Control(Op::Shutdown, flags) => self.guest.device_shutdown = flags,
            Outgoing::Control(Op::Reset, _) => self.guest.reset = true,
            Outgoing::Control(Op::CreditRequest, _) => self.guest.update_due = true,
            Outgoing::Control(..) => {}
        }
        assert!(self.guest.buffer.len() <= self.guest.buffer_size as usize, "the guest's buffer overflows");
        true
    }

    fn host_reads(&mut self, most: usize) -> bool {
        let count = most.min(self.socket.pipe.len());
        self.socket.read.extend(self.socket.pipe.drain(..count));
        let fits = self.connection.kept().len().min(self.socket.space - self.socket.pipe.len());
        self.socket.pipe.extend(&self.connection.kept()[..fits]);
        self.connection.forward(fits);
        count + fits > 0
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::GuestSends(most) => {
                self.guest_sends(most);
            }
            Step::GuestReads(most) => {
                self.guest_reads(most);
            }
            Step::DeviceEmits(room) => {
                self.device_emits(room);
            }
            Step::HostReads(most) => {
                self.host_reads(most);
            }
            // Each end closes its direction once it has written everything.
            Step::GuestEnds if self.guest.connected && self.guest.to_send.is_empty() => {
                self.guest.shutdown |= SHUTDOWN_SEND;
                self.deliver(Op::Shutdown, SHUTDOWN_SEND, &[]);
            }
            Step::HostEnds => self.socket.ended = true,
            Step::GuestAsks if self.guest.connected => self.deliver(Op::CreditRequest, 0, &[]),
            Step::GuestEnds | Step::GuestAsks => {}
        }
    }

    /// Everybody does what he can until nobody can do anything.
    fn settle(&mut self) {
        while self.guest_sends(7) | self.guest_reads(5) | self.device_emits(11) | self.host_reads(3) {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn bytes_arrive_in_order_and_nothing_waits_for_ever(
        up in prop::collection::vec(any::<u8>(), 0..400),
        down in prop::collection::vec(any::<u8>(), 0..400),
        buffer_size in 1..100u32,
        space in 1..100usize,
        start in prop_oneof![Just(0), Just(u32::MAX - 20), any::<u32>()],
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(&up, &down, buffer_size, space, start);
        for step in &steps {
            world.run(step);
            prop_assert!(up.starts_with(&world.socket.read) && down.starts_with(&world.guest.read));
        }
        world.settle();
        prop_assert_eq!(&world.socket.read, &up);
        prop_assert_eq!(&world.guest.read, &down);

        world.run(&Step::GuestEnds);
        world.run(&Step::HostEnds);
        world.settle();
        prop_assert!(world.connection.guest_is_done_sending() && world.connection.host_is_done());
        prop_assert_eq!(world.guest.device_shutdown, SHUTDOWN_SEND);
        world.deliver(Op::Shutdown, SHUTDOWN_BOTH, &[]);
        world.settle();
        prop_assert!(world.guest.reset && world.connection.is_gone());
    }

    #[test]
    fn any_packets_keep_the_buffer_bounded(
        packets in prop::collection::vec((0..9u16, any::<u32>(), 0..200u32, any::<u32>(), any::<u32>(), any::<bool>()), 0..100),
        requested in any::<bool>(),
    ) {
        let mut connection = if requested { Connection::requested(WINDOW) } else { Connection::accepted(WINDOW, 0, 0) };
        for (op, flags, length, window, forwarded, emits) in packets {
            if connection.receive(Op::from_wire(op), flags, length, window, forwarded) == Received::Data {
                connection.keep(&vec![0; length as usize]);
            }
            prop_assert!(connection.kept.len() <= WINDOW as usize);
            if let Some(packet) = connection.next(true).filter(|_| emits) {
                connection.emitted(packet);
            }
        }
    }
}

fn open() -> Connection {
    let mut connection = Connection::accepted(WINDOW, 100, 0);
    assert_eq!(connection.next(true), Some(Outgoing::Control(Op::Response, 0)));
    connection.emitted(Outgoing::Control(Op::Response, 0));
    connection
}

#[test]
fn more_than_the_window_is_a_violation() {
    let mut connection = open();
    assert_eq!(connection.receive(Some(Op::Data), 0, WINDOW, 100, 0), Received::Data);
    connection.keep(&[1; WINDOW as usize]);
    assert_eq!(connection.receive(Some(Op::Data), 0, 1, 100, 0), Received::Violation);
    assert_eq!(connection.next(true), Some(Outgoing::Control(Op::Reset, 0)));
    assert!(connection.host_is_done() && !connection.is_waiting());
}

#[test]
fn data_after_the_end_is_a_violation() {
    let mut connection = open();
    assert_eq!(connection.receive(Some(Op::Shutdown), SHUTDOWN_SEND, 0, 100, 0), Received::Noted);
    assert_eq!(connection.receive(Some(Op::Data), 0, 1, 100, 0), Received::Violation);
}

#[test]
fn credit_is_asked_for_once_and_used_when_it_comes() {
    let mut connection = open();
    connection.emitted(Outgoing::Data(100));
    assert_eq!(connection.next(true), Some(Outgoing::Control(Op::CreditRequest, 0)));
    connection.emitted(Outgoing::Control(Op::CreditRequest, 0));
    assert_eq!(connection.receive(Some(Op::CreditUpdate), 0, 0, 100, 0), Received::Noted);
    assert_eq!(connection.next(true), None, "an answer of no room must not be asked for again");
    connection.receive(Some(Op::CreditUpdate), 0, 0, 100, 30);
    assert_eq!(connection.next(true), Some(Outgoing::Data(30)));
    connection.receive(Some(Op::CreditUpdate), 0, 0, 100, 5000);
    assert_eq!(
        connection.next(true),
        Some(Outgoing::Control(Op::CreditRequest, 0)),
        "more consumed than sent is no room"
    );
}

#[test]
fn what_the_guest_sent_before_it_closed_still_reaches_the_host() {
    let mut connection = open();
    connection.receive(Some(Op::Data), 0, 3, 100, 0);
    connection.keep(b"abc");
    connection.receive(Some(Op::Shutdown), SHUTDOWN_BOTH, 0, 100, 0);
    connection.emitted(connection.next(true).unwrap());
    assert!(connection.is_gone() && !connection.guest_is_done_sending() && !connection.host_is_done());
    assert_eq!(connection.kept(), b"abc");
    connection.forward(3);
    assert!(connection.host_is_done());
}

#[test]
fn a_host_that_leaves_before_the_answer_is_a_connection_that_ends() {
    let mut connection = Connection::requested(WINDOW);
    connection.host_takes_no_more();
    connection.emitted(connection.next(true).unwrap());
    assert_eq!(connection.receive(Some(Op::Response), 0, 0, 100, 0), Received::Established);
    assert_eq!(connection.next(true), Some(Outgoing::Control(Op::Shutdown, SHUTDOWN_RECEIVE)));
    connection.emitted(connection.next(true).unwrap());
    assert_eq!(connection.next(true), Some(Outgoing::Data(100)), "what it wrote before it left");
}

#[test]
fn a_host_that_takes_no_more_does_not_stop_the_guest() {
    let mut connection = open();
    connection.host_takes_no_more();
    assert_eq!(connection.next(false), Some(Outgoing::Control(Op::Shutdown, SHUTDOWN_RECEIVE)));
    connection.emitted(Outgoing::Control(Op::Shutdown, SHUTDOWN_RECEIVE));
    assert_eq!(connection.receive(Some(Op::Data), 0, WINDOW, 100, 0), Received::Data);
    connection.keep(&[0; WINDOW as usize]);
    assert!(!connection.is_waiting());
    assert_eq!(connection.next(false), Some(Outgoing::Control(Op::CreditUpdate, 0)));
}
