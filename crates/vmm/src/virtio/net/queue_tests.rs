//! Several pairs of queues, and the queue that says how many are in use.

use super::*;
use crate::virtio::mock::{Driver, WINDOW, abuse, steps};
use proptest::prelude::*;
use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;

thread_local! {
    /// What the device has asked of the tap's queues, by this test's thread.
    static ASKED: RefCell<Vec<(RawFd, bool)>> = const { RefCell::new(Vec::new()) };
}

fn note(tap: BorrowedFd<'_>, attached: bool) -> io::Result<()> {
    ASKED.with(|asked| asked.borrow_mut().push((tap.as_raw_fd(), attached)));
    Ok(())
}

/// A device with so many pairs, and the other ends of its taps.
fn net_with(count: usize, options: &NetOptions) -> (Net, Vec<UnixDatagram>) {
    let ends: Vec<_> = (0..count).map(|_| UnixDatagram::pair().unwrap()).collect();
    let (taps, wires): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
    taps.iter().chain(&wires).for_each(|end| end.set_nonblocking(true).unwrap());
    let taps = taps.into_iter().map(|tap| File::from(OwnedFd::from(tap))).collect();
    let mut device = Net::new(taps, options).unwrap();
    device.set_offload = |_, _| Ok(());
    device.set_queue = note;
    ASKED.with(|asked| asked.borrow_mut().clear());
    (device, wires)
}

fn net(count: usize) -> (Net, Vec<UnixDatagram>) {
    net_with(count, &NetOptions { name: "eth0".into(), ..NetOptions::default() })
}

/// Which pairs' queues were attached or detached, in order.
fn asked(device: &Net) -> Vec<(usize, bool)> {
    let fds: Vec<_> = device.pairs.iter().map(|pair| pair.tap.as_ref().unwrap().as_raw_fd()).collect();
    let index = |fd| fds.iter().position(|one| *one == fd).unwrap();
    ASKED.with(|asked| asked.borrow_mut().drain(..).map(|(fd, attached)| (index(fd), attached)).collect())
}

/// Has the driver send a command; what it was answered, if there was room for that.
fn command(driver: &mut Driver, device: &mut Net, queue: usize, bytes: &[u8], room: u32) -> Option<u8> {
    let (from, to) = (driver.place(bytes), driver.place(&[0xEE; 4]));
    let pieces = [(from, bytes.len() as u32, false), (to, room, true)];
    driver.add(queue, &pieces.into_iter().filter(|piece| piece.1 > 0).collect::<Vec<_>>());
    driver.kick(device, queue).unwrap();
    let used = driver.wait(device, queue, 1);
    assert_eq!(used[0].1, room.min(1), "the answer is one byte");
    assert_eq!(driver.read(to + 1, 3), [0xEE; 3], "nothing is written behind the answer");
    (room > 0).then(|| driver.read(to, 1)[0])
}

fn set(driver: &mut Driver, device: &mut Net, count: u16) -> Option<u8> {
    let [low, high] = count.to_le_bytes();
    let queue = 2 * device.pairs.len();
    command(driver, device, queue, &[4, 0, low, high], 1)
}

fn packet(mark: u8) -> Vec<u8> {
    [&[0; HEADER][..], &[mark; 60]].concat()
}

/// Gives the guest's side of a pair `count` buffers for packets.
fn buffers(driver: &mut Driver, device: &mut Net, pair: usize, count: u64) {
    for n in 0..count {
        driver.add(2 * pair, &[(WINDOW + pair as u64 * 8192 + n * 100, 100, true)]);
    }
    driver.kick(device, 2 * pair).unwrap();
}

#[test]
fn one_pair_is_offered_as_ever() {
    let (device, _wires) = net(1);
    assert_eq!(device.queue_sizes(), [256, 256]);
    assert_eq!(device.features() & (F_MQ | F_CTRL_VQ), 0);
    assert!(device.changes.watch(0).is_none());
    let (device, _wires) = net(3);
    assert_eq!(device.queue_sizes(), [256, 256, 256, 256, 256, 256, 64]);
    assert_eq!(device.features() & (F_MQ | F_CTRL_VQ), F_MQ | F_CTRL_VQ);
    let mut pairs = [0; 2];
    device.read_config(8, &mut pairs);
    assert_eq!(pairs, [3, 0]);
    for bad in [0, MAX_PAIRS + 1] {
        let taps = (0..bad).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(Net::new(taps, &NetOptions::default()).is_err());
    }
}

#[test]
fn pairs_that_are_in_use_move_packets_each_on_its_own() {
    let (mut device, wires) = net(2);
    let mut driver = Driver::new(&mut device, u64::MAX);
    for pair in 0..2 {
        buffers(&mut driver, &mut device, pair, 4);
    }
    assert_eq!(set(&mut driver, &mut device, 2), Some(control::OK));
    assert_eq!(asked(&device), [(1, true)]);
    for (pair, wire) in wires.iter().enumerate() {
        let mark = 10 + pair as u8;
        wire.send(&packet(mark)).unwrap();
        assert_eq!(driver.wait(&mut device, 2 * pair, 1), [(0, 72)]);
        assert_eq!(driver.read(WINDOW + pair as u64 * 8192 + 12, 60), [mark; 60]);
        let address = driver.place(&packet(20 + mark));
        driver.add(2 * pair + 1, &[(address, 72, false)]);
        driver.kick(&mut device, 2 * pair + 1).unwrap();
        let mut got = [0; 100];
        assert_eq!(wire.recv(&mut got).unwrap(), 72);
        assert_eq!(got[12..72], [20 + mark; 60]);
    }
    assert!(driver.used(0).is_empty() && driver.used(2).is_empty());
    assert_eq!(
        device.counters().unwrap().requests.load(Ordering::Relaxed),
        4,
        "the device counts as a whole"
    );
}

#[test]
fn a_pair_that_is_not_in_use_gets_nothing_and_sends_nothing() {
    let (mut device, wires) = net(2);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let send = |driver: &mut Driver, device: &mut Net| {
        let address = driver.place(&packet(1));
        driver.add(3, &[(address, 72, false)]);
        driver.kick(device, 3).unwrap();
        assert_eq!(driver.used(3).len(), 1, "it is given back");
        wires[1].recv(&mut [0; 100]).is_ok()
    };
    buffers(&mut driver, &mut device, 1, 4);
    wires[1].send(&packet(1)).unwrap();
    assert!(device.watches().is_empty() && !send(&mut driver, &mut device));
    assert_eq!(set(&mut driver, &mut device, 2), Some(control::OK));
    assert_eq!(driver.used(2).len(), 1);
    assert!(send(&mut driver, &mut device));
    // A packet that has begun to arrive when the pair is put out of use never comes.
    wires[1].send(&[&[0; HEADER][..], &[7; 1000]].concat()).unwrap();
    driver.pump(&mut device, 1000).unwrap();
    assert_eq!(set(&mut driver, &mut device, 1), Some(control::OK));
    assert_eq!(asked(&device), [(1, true), (1, false)]);
    buffers(&mut driver, &mut device, 1, 20);
    wires[1].send(&packet(2)).unwrap();
    assert!(!driver.pump(&mut device, 0).unwrap() && !send(&mut driver, &mut device));
    assert!(driver.used(2).is_empty());
}

#[test]
fn what_is_no_command_is_refused() {
    let (mut device, _wires) = net(2);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let refused: [&[u8]; 11] = [
        &[],
        &[4],
        &[4, 0],
        &[4, 0, 2],
        &[4, 0, 0, 0],
        &[4, 0, 3, 0],
        &[4, 0, 2, 1],
        &[4, 0, 2, 0, 0],
        &[4, 1, 2, 0],
        &[0, 0, 1, 0],
        &[1, 1, 2, 0, 0, 0, 0, 1],
    ];
    for bytes in refused {
        assert_eq!(command(&mut driver, &mut device, 4, bytes, 1), Some(control::ERR), "{bytes:?}");
    }
    assert_eq!(command(&mut driver, &mut device, 4, &[4, 0, 2, 0], 0), None);
    assert!(asked(&device).is_empty(), "without room for an answer nothing is done");
    assert_eq!(device.counters().unwrap().errors.load(Ordering::Relaxed), 12);
    assert_eq!(command(&mut driver, &mut device, 4, &[4, 0, 2, 0], 4), Some(control::OK));
    assert_eq!(command(&mut driver, &mut device, 4, &[4, 0, 9, 0], 1), Some(control::ERR));
    assert_eq!((device.enabled, asked(&device)), (2, vec![(1, true)]));
    device.withdraw().unwrap();
    assert_eq!(set(&mut driver, &mut device, 1), Some(control::ERR), "it is answered all the same");
}

#[test]
fn a_driver_without_several_queues_has_the_control_queue_behind_the_first_pair() {
    let (mut device, wires) = net(3);
    let mut driver = Driver::new(&mut device, !F_MQ);
    assert_eq!(command(&mut driver, &mut device, 2, &[4, 0, 1, 0], 1), Some(control::ERR));
    buffers(&mut driver, &mut device, 0, 1);
    wires[0].send(&packet(1)).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1).len(), 1);
    let mut driver = Driver::new(&mut device, !(F_MQ | F_CTRL_VQ));
    for queue in 0..7 {
        driver.add(queue, &[(WINDOW, 100, true)]);
        driver.kick(&mut device, queue).unwrap();
    }
    assert!((2..7).all(|queue| driver.used(queue).is_empty()));
}

#[test]
fn a_pair_without_queues_cannot_be_used() {
    let (mut device, _wires) = net(3);
    let driver = Driver::new(&mut device, u64::MAX);
    device.reset();
    let queues = (0..7).map(|index| (index != 3).then(|| driver.queue(index))).collect();
    let interrupt: Arc<dyn Interrupt> = driver.interrupts.clone();
    let features = device.features();
    device.activate(Activation { memory: driver.memory.clone(), queues, features, interrupt }).unwrap();
    assert!(!device.enable(2).unwrap() && !device.enable(3).unwrap() && device.enable(1).unwrap());
    assert!(asked(&device).is_empty());
}

#[test]
fn a_reset_leaves_one_pair() {
    let (mut device, wires) = net(3);
    let mut driver = Driver::new(&mut device, u64::MAX);
    assert_eq!(set(&mut driver, &mut device, 3), Some(control::OK));
    assert_eq!(asked(&device), [(1, true), (2, true)]);
    driver.reset(&mut device);
    assert!(asked(&device).is_empty(), "the thread that resets has no right to");
    buffers(&mut driver, &mut device, 1, 1);
    buffers(&mut driver, &mut device, 0, 1);
    assert_eq!(asked(&device), [(2, false), (1, false)]);
    for wire in &wires {
        wire.send(&packet(1)).unwrap();
    }
    assert_eq!(driver.wait(&mut device, 0, 1).len(), 1);
    assert!(driver.used(2).is_empty());
}

#[test]
fn a_tap_that_refuses_leaves_all_as_it_was() {
    let (mut device, wires) = net(3);
    let mut driver = Driver::new(&mut device, u64::MAX);
    device.set_queue = |tap, attached| {
        let second = ASKED.with(|asked| !asked.borrow().is_empty()) && attached;
        if second { Err(io::Error::from_raw_os_error(libc::E2BIG)) } else { note(tap, attached) }
    };
    assert_eq!(set(&mut driver, &mut device, 3), Some(control::ERR));
    assert_eq!((asked(&device), device.enabled), (vec![(1, true), (1, false)], 1));
    buffers(&mut driver, &mut device, 0, 1);
    wires[0].send(&packet(1)).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1).len(), 1);
}

#[test]
fn limits_are_those_of_the_device_and_no_pair_starves() {
    let limit = Limits { bytes: None, ops: Some(Rate { per_second: 400, burst: 2 }) };
    let (mut device, wires) = net_with(3, &NetOptions { rx: limit, tx: limit, ..NetOptions::default() });
    let mut driver = Driver::new(&mut device, u64::MAX);
    set(&mut driver, &mut device, 3);
    let address = driver.place(&packet(1));
    for (pair, wire) in wires.iter().enumerate() {
        for _ in 0..20 {
            driver.add(2 * pair + 1, &[(address, 72, false)]);
            wire.send(&packet(1)).unwrap();
        }
        driver.kick(&mut device, 2 * pair + 1).unwrap();
        buffers(&mut driver, &mut device, pair, 20);
    }
    let first: usize = (0..6).map(|queue| driver.used(queue).len()).sum();
    assert!(first < 20, "{first} packets of 120 with bursts of 2: pairs do not have one each");
    let mut done = [0; 6];
    while done.iter().sum::<usize>() + first < 120 {
        assert!(driver.pump(&mut device, 60_000).unwrap());
        for (queue, done) in done.iter_mut().enumerate() {
            *done += driver.used(queue).len();
        }
        let side = |odd: usize| (0..3).map(move |pair| 2 * pair + odd);
        for odd in [0, 1] {
            let (least, most) = (side(odd).map(|q| done[q]).min(), side(odd).map(|q| done[q]).max());
            assert!(least > Some(0) || most < Some(20), "one had to wait until another was done: {done:?}");
        }
    }
}

#[test]
fn changes_are_only_so_many_a_second() {
    let (mut device, _wires) = net(2);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let place = driver.place(&[4, 0, 1, 0, 4, 0, 2, 0]);
    for n in 0..20 {
        driver.add(4, &[(place + n % 2 * 4, 4, false), (place + 100, 1, true)]);
    }
    driver.kick(&mut device, 4).unwrap();
    let at_once = driver.used(4).len();
    assert!(at_once < 20, "the first changes nothing, the next ten are free");
    assert!(device.watches().iter().any(|watch| watch.token == TOKEN_CHANGES));
    assert_eq!(driver.wait(&mut device, 4, 20 - at_once).len(), 20 - at_once, "all are answered in the end");
}

#[test]
fn a_tap_of_one_queue_is_not_one_of_several() {
    let null = || File::open("/dev/null").unwrap();
    let error = tap::attach(vec![null(), null()], "tap0").unwrap_err();
    assert!(error.to_string().contains("multi_queue"), "{error}");
    assert!(matches!(tap::prepare(&[]), Err(tap::TapError::Pairs(0))));
    let many = (0..9).map(|_| null()).collect::<Vec<_>>();
    assert!(matches!(tap::prepare(&many), Err(tap::TapError::Pairs(9))));
}

/// Needs the right to make a tap, so not for everybody: `cargo test -p vmm -- --ignored tap`.
#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_real_tap_has_the_queues_that_are_in_use() {
    let tun = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let name = format!("ccqueue{}", std::process::id() % 10_000);
    let taps = tap::attach(vec![tun(), tun(), tun()], &name).unwrap();
    let queues = || {
        let entries = std::fs::read_dir(format!("/sys/class/net/{name}/queues")).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("tx-")).count()
    };
    assert_eq!(queues(), 1, "those that the driver did not ask for are detached");
    tap::prepare(&taps).unwrap();
    assert_eq!(queues(), 1, "once more, as the machine does with what a client has prepared");
    let mut device = Net::new(taps, &NetOptions::default()).unwrap();
    let mut driver = Driver::new(&mut device, u64::MAX);
    for count in [3, 2, 3, 1, 2] {
        assert_eq!(set(&mut driver, &mut device, count), Some(control::OK));
        assert_eq!(queues(), usize::from(count));
    }
    driver.reset(&mut device);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(queues(), 1);
    // The other way round a tap that was made with one queue.
    let single = format!("ccone{}", std::process::id() % 10_000);
    let one = tap::attach(vec![tun()], &single).unwrap();
    let twice = [one[0].try_clone().unwrap(), one[0].try_clone().unwrap()];
    assert!(matches!(tap::prepare(&twice), Err(tap::TapError::Detach(_))));
    let error = tap::attach(vec![tun(), tun()], &single).unwrap_err();
    assert!(matches!(error, tap::TapError::AttachQueues(_, 2, _)), "{error}");
}

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps(), features in prop_oneof![Just(u64::MAX), any::<u64>()], count in 2..5_usize) {
        let (mut device, wires) = net(count);
        for wire in &wires {
            wire.send(&packet(1)).unwrap();
        }
        abuse(&mut device, features, &steps);
    }
}

/// A command, and how much room there is for its answer.
fn commands() -> impl Strategy<Value = (Vec<u8>, u32)> {
    let count = prop_oneof![4 => 0..6_u16, 1 => any::<u16>()];
    let sensible = count.prop_map(|count| [[4, 0], count.to_le_bytes()].concat());
    let bytes = prop_oneof![4 => sensible, 1 => prop::collection::vec(0..6_u8, 0..8)];
    (bytes, prop_oneof![4 => Just(1_u32), 1 => 0..5_u32])
        .prop_filter("a chain has something", |(bytes, room)| bytes.len() + *room as usize > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// After any commands, with resets between them, the queues of the tap are those of the last one that was in order, and packets
    /// arrive in these alone.
    #[test]
    fn the_tap_has_the_queues_that_the_driver_uses(all in prop::collection::vec(prop_oneof![8 => commands().prop_map(Some), 1 => Just(None)], 0..10)) {
        const PAIRS: usize = 4;
        let (mut device, wires) = net(PAIRS);
        // The real limit would only make it slow.
        device.changes = Limiter::new(Limits::default()).unwrap();
        let mut driver = Driver::new(&mut device, u64::MAX);
        let (mut model, mut attached) = (1, [true, false, false, false]);
        for step in all {
            let Some((bytes, room)) = step else {
                driver.reset(&mut device);
                model = 1;
                continue;
            };
            let wanted = match bytes[..] {
                [4, 0, low, high] => usize::from(u16::from_le_bytes([low, high])),
                _ => 0,
            };
            let right = (1..=PAIRS).contains(&wanted);
            let answer = if right { control::OK } else { control::ERR };
            prop_assert_eq!(command(&mut driver, &mut device, 2 * PAIRS, &bytes, room), (room > 0).then_some(answer));
            model = if right && room > 0 { wanted } else { model };
        }
        for pair in 0..PAIRS {
            buffers(&mut driver, &mut device, pair, 1);
        }
        for (pair, now) in asked(&device) {
            prop_assert_ne!(std::mem::replace(&mut attached[pair], now), now, "the kernel refuses what is so already");
        }
        let expected: Vec<_> = (0..PAIRS).map(|pair| pair < model).collect();
        prop_assert_eq!(attached.to_vec(), expected);
        for wire in &wires {
            wire.send(&packet(1)).unwrap();
        }
        while driver.pump(&mut device, 0).unwrap() {}
        for (pair, attached) in attached.into_iter().enumerate() {
            prop_assert_eq!(driver.used(2 * pair).len(), usize::from(attached));
        }
    }
}
