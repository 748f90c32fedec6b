//! Whatever a driver asks of a device, no byte outside of the buffers that it may write changes.
//!
//! ```text
//!   DATA ── readable ─ gap ─ writable ─ gap ─ writable ─ gap ... ── BALLOON_START      all of it compared afterwards
//! ```

use super::devices::{AGENT_PORT, BALLOON_START, KINDS, Kind, bench};
use super::{DATA, Driver, RAM_SIZE, RINGS, USED, WINDOW, WINDOW_SIZE};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// What lies in memory that nobody has written.
const PATTERN: u8 = 0xA5;
/// Bytes between buffers.
const GAP: u64 = 64;

#[derive(Debug, Clone)]
struct Request {
    queue: usize,
    readable: Vec<u8>,
    cut: usize,
    rooms: Vec<u32>,
}

/// What a device of this kind understands, more often than not.
fn readable(kind: Kind) -> BoxedStrategy<Vec<u8>> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let sensible = match kind {
        Kind::Block => (0..14_u32, 0..300_u64, bytes(1200))
            .prop_map(|(kind, sector, data)| {
                [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), &data].concat()
            })
            .boxed(),
        Kind::Fs => (0..52_u32, 0..4_u64, prop::collection::vec(0..5_u8, 0..100))
            .prop_map(|(opcode, node, body)| {
                let length = (40 + body.len() as u32).to_le_bytes();
                let ids = [7, node].map(u64::to_le_bytes).concat();
                [&length[..], &opcode.to_le_bytes(), &ids, &[0; 16], &body].concat()
            })
            .boxed(),
        Kind::Mem => (0..5_u16, 0..20_u64, 0..6_u16)
            .prop_map(|(kind, block, count)| {
                let address = WINDOW + (block << 16);
                [&kind.to_le_bytes()[..], &[0; 6], &address.to_le_bytes(), &count.to_le_bytes(), &[0; 6]]
                    .concat()
            })
            .boxed(),
        Kind::Vsock => (0..8_u16, bytes(100))
            .prop_map(|(op, data)| {
                let cids = [3_u64, 2].map(u64::to_le_bytes).concat();
                let words = [1000, AGENT_PORT, data.len() as u32].map(u32::to_le_bytes).concat();
                let credit = [0_u32, 1 << 16, 0].map(u32::to_le_bytes).concat();
                [&cids[..], &words, &[1, 0], &op.to_le_bytes(), &credit, &data].concat()
            })
            .boxed(),
        Kind::Balloon => prop::collection::vec(0..(RAM_SIZE >> 12) as u32, 0..40)
            .prop_map(|pages| pages.into_iter().flat_map(u32::to_le_bytes).collect())
            .boxed(),
        Kind::Pmem => (0..2_u32).prop_map(|kind| kind.to_le_bytes().to_vec()).boxed(),
        Kind::Net => bytes(1000).prop_map(|data| [[0; 12].as_slice(), &data].concat()).boxed(),
        Kind::NetQueues => {
            let command = (0..3_u8, 0..5_u8).prop_map(|(command, count)| vec![4, command, count, 0]);
            let packet = bytes(1000).prop_map(|data| [[0; 12].as_slice(), &data].concat());
            prop_oneof![command, packet].boxed()
        }
        Kind::Console | Kind::Rng => bytes(100).boxed(),
    };
    prop_oneof![5 => sensible, 1 => bytes(200)].boxed()
}

fn request(kind: Kind) -> impl Strategy<Value = Request> {
    let room = prop_oneof![4 => 0..700_u32, 1 => Just(1), 1 => Just(512), 1 => Just(5000)];
    (0..7_usize, readable(kind), 0..64_usize, prop::collection::vec(room, 0..4))
        .prop_map(|(queue, readable, cut, rooms)| Request { queue, readable, cut, rooms })
}

type Input = (Kind, Vec<Request>, Vec<u8>);

fn input() -> impl Strategy<Value = Input> {
    prop::sample::select(KINDS.as_slice()).prop_flat_map(|kind| {
        (Just(kind), prop::collection::vec(request(kind), 1..16), prop::collection::vec(any::<u8>(), 0..600))
    })
}

/// Offers a request; what the device may write of it goes to `writable`. Gives its head, and how much that is.
fn offer(driver: &mut Driver, queue: usize, request: &Request, writable: &mut Vec<Range<u64>>) -> (u32, u32) {
    let place = |driver: &mut Driver, len: u32| driver.alloc(u64::from(len) + GAP);
    let (cut, size) = (request.cut.min(request.readable.len()), request.readable.len());
    let from = place(driver, size as u32);
    driver.write(from, &request.readable);
    let mut pieces = vec![(from, cut as u32, false), (from + cut as u64, (size - cut) as u32, false)];
    for room in &request.rooms {
        let to = place(driver, *room);
        pieces.push((to, *room, true));
        writable.push(to..to + u64::from(*room));
    }
    (u32::from(driver.add(queue, &pieces)), request.rooms.iter().sum())
}

fn check((kind, requests, said): Input) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "text").unwrap();
    let mut bench = bench(kind, directory.path()).unwrap();
    let device = &mut *bench.device;
    let mut driver = Driver::new(device, u64::MAX);
    let all = (BALLOON_START - DATA) as usize;
    driver.write(DATA, &vec![PATTERN; all]);
    driver.write(WINDOW, &vec![PATTERN; WINDOW_SIZE as usize]);
    let count = driver.queues.len();
    let (mut writable, mut rooms) = (Vec::new(), BTreeMap::new());
    for request in &requests {
        let queue = request.queue % count;
        // A descriptor in use is not written again.
        if usize::from(driver.queues[queue].next_descriptor) + 2 + request.rooms.len()
            >= usize::from(driver.queues[queue].size)
        {
            continue;
        }
        let (head, room) = offer(&mut driver, queue, request, &mut writable);
        rooms.insert((queue, head), room);
    }
    let data = driver.read(DATA, all);
    let rings: Vec<_> = (0..count).map(|queue| driver.read(queue as u64 * RINGS, USED as usize)).collect();
    (bench.host)(&said);
    for round in 0..4 {
        for queue in 0..count {
            driver.kick(device, queue).unwrap();
        }
        (bench.host)(&said);
        // Workers of the host's own may still be at it: the reset below waits for them.
        driver.pump(device, i32::from(round == 3)).unwrap();
    }
    for queue in 0..count {
        for (head, written) in driver.used(queue) {
            assert!(
                written <= rooms[&(queue, head)],
                "{kind:?} says that it wrote more than there was room for"
            );
        }
    }
    device.reset();
    let (mut expected, after) = (data, driver.read(DATA, all));
    for range in writable {
        let range = (range.start - DATA) as usize..(range.end - DATA) as usize;
        expected[range.clone()].copy_from_slice(&after[range]);
    }
    assert!(expected == after, "{kind:?} wrote outside of its buffers");
    for (queue, before) in rings.iter().enumerate() {
        assert!(
            *before == driver.read(queue as u64 * RINGS, USED as usize),
            "{kind:?} wrote what is the driver's"
        );
    }
    // Blocks of virtio-mem lie in the window and are zero when they are new.
    let window = driver.read(WINDOW, WINDOW_SIZE as usize);
    assert!(kind == Kind::Mem || window.iter().all(|byte| *byte == PATTERN), "{kind:?} wrote beside RAM");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_but_its_buffers_is_written(input in input()) {
        check(input);
    }
}
