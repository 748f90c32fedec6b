use super::*;
use crate::virtio::mock::{Driver, WINDOW, abuse, steps};
use crate::virtio::rate_limit::Rate;
use proptest::prelude::*;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;

/// A device on a socket that keeps packets apart as a tap does, and the socket's other end.
fn net_with(options: &NetOptions) -> (Net, UnixDatagram) {
    let (tap, wire) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    wire.set_nonblocking(true).unwrap();
    let mut device = Net::new(vec![File::from(OwnedFd::from(tap))], options).unwrap();
    device.set_offload = |_, _| Ok(());
    (device, wire)
}

fn net() -> (Net, UnixDatagram) {
    net_with(&NetOptions { name: "eth0".into(), mac: [2, 0, 0, 0, 0, 1], ..NetOptions::default() })
}

fn packet(len: usize) -> Vec<u8> {
    let payload = (0..len).map(|n| (n % 253) as u8);
    [0; HEADER].into_iter().chain(payload).collect()
}

/// What the driver must find for `packet`: the same, with the number of buffers in its header.
fn seen(packet: &[u8], buffers: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[10] = buffers;
    packet
}

#[test]
fn packets_go_out_whole() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let (packet, mut buffer) = (packet(1000), [0; 2000]);
    let address = driver.place(&packet);
    driver.write(WINDOW, &packet[500..]);
    driver.add(1, &[(address, 12, false), (address + 12, 488, false), (WINDOW, 512, false)]);
    driver.kick(&mut device, 1).unwrap();
    assert_eq!(driver.used(1), [(0, 0)]);
    assert_eq!(wire.recv(&mut buffer).unwrap(), 1012);
    assert_eq!(buffer[..1012], packet);
    assert_eq!(device.counters().unwrap().bytes_from_guest.load(Ordering::Relaxed), 1000);
}

#[test]
fn a_network_that_was_taken_away_drops_what_is_sent() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let address = driver.place(&packet(100));
    driver.add(1, &[(address, 112, false)]);
    device.withdraw().unwrap();
    let link = |device: &Net| {
        let mut status = [0; 2];
        device.read_config(6, &mut status);
        u16::from_le_bytes(status)
    };
    assert_eq!((driver.used(1).len(), link(&device)), (1, 0));
    assert!(wire.send(b"x").is_err(), "the tap is closed");
    for _ in 0..3 {
        driver.add(1, &[(address, 112, false)]);
        driver.kick(&mut device, 1).unwrap();
    }
    assert_eq!(driver.used(1).len(), 3);
    assert!(device.watches().is_empty());
    device.reset();
    assert_eq!(link(&device), 0, "it does not come back");
}

#[test]
fn packets_that_are_none_are_dropped_and_given_back() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    for len in [0, 11, MAX_PACKET as u32 + 1] {
        driver.add(1, &[(WINDOW, len, false)]);
    }
    driver.add(1, &[(WINDOW, 100, true)]);
    driver.kick(&mut device, 1).unwrap();
    assert_eq!(driver.used(1).len(), 4);
    assert!(wire.recv(&mut [0; 100]).is_err() && !device.common.health.dead);
}

#[test]
fn a_full_tap_delays_and_loses_nothing() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let address = driver.place(&packet(60_000));
    for _ in 0..100 {
        driver.add(1, &[(address, 60_012, false)]);
    }
    driver.kick(&mut device, 1).unwrap();
    assert!(device.watches().iter().any(|watch| watch.writable));
    let (mut got, mut used, mut buffer) = (0, driver.used(1).len(), vec![0; MAX_PACKET]);
    while got < 100 {
        got += usize::from(wire.recv(&mut buffer).is_ok());
        driver.pump(&mut device, 0).unwrap();
        used += driver.used(1).len();
    }
    assert_eq!((got, used), (100, 100));
}

#[test]
fn a_packet_comes_in_over_as_many_buffers_as_it_takes() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    assert!(device.watches().is_empty(), "without buffers nobody looks at the tap");
    for n in 0..50 {
        driver.add(0, &[(WINDOW + n * 1500, 1500, true)]);
    }
    driver.kick(&mut device, 0).unwrap();
    let (large, small) = (packet(60_000), packet(60));
    wire.send(&large).unwrap();
    wire.send(&small).unwrap();
    let used = driver.wait(&mut device, 0, 42);
    let lengths: Vec<u32> = used.iter().map(|(_, len)| *len).collect();
    assert_eq!(lengths, [vec![1500; 40], vec![12], vec![72]].concat());
    assert_eq!(driver.read(WINDOW, 60_012), seen(&large, 41));
    assert_eq!(driver.read(WINDOW + 41 * 1500, 72), seen(&small, 1));
}

#[test]
fn a_packet_that_does_not_fit_waits_for_buffers() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let packet = packet(5000);
    driver.add(0, &[(WINDOW, 1000, true)]);
    driver.kick(&mut device, 0).unwrap();
    wire.send(&packet).unwrap();
    driver.pump(&mut device, 1000).unwrap();
    assert!(driver.used(0).is_empty() && device.watches().is_empty());
    for n in 1..4 {
        driver.add(0, &[(WINDOW + n * 1000, 1000, true)]);
        driver.kick(&mut device, 0).unwrap();
        assert!(driver.used(0).is_empty());
    }
    driver.add(0, &[(WINDOW + 4000, 5000, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.used(0), [(0, 1000), (1, 1000), (2, 1000), (3, 1000), (4, 1012)]);
    assert_eq!(driver.read(WINDOW, 5012), seen(&packet, 5));
}

#[test]
fn a_packet_for_which_there_can_be_no_room_is_dropped() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    for _ in 0..QUEUE_SIZE {
        driver.add(0, &[(WINDOW, 16, true)]);
    }
    driver.kick(&mut device, 0).unwrap();
    wire.send(&packet(5000)).unwrap();
    wire.send(&packet(4)).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1), [(0, 16)]);
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, !F_MRG_RXBUF);
    driver.add(0, &[(WINDOW, 100, true)]);
    driver.kick(&mut device, 0).unwrap();
    wire.send(&packet(500)).unwrap();
    wire.send(&packet(50)).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1), [(0, 62)]);
}

#[test]
fn rate_limits_hold_each_direction_up_by_itself() {
    let limit = Limits { bytes: None, ops: Some(Rate { per_second: 400, burst: 2 }) };
    let options = NetOptions { rx: limit, tx: limit, ..NetOptions::default() };
    let (mut device, wire) = net_with(&options);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let address = driver.place(&packet(60));
    for n in 0..10 {
        driver.add(0, &[(WINDOW + n * 100, 100, true)]);
        driver.add(1, &[(address, 72, false)]);
        wire.send(&packet(60)).unwrap();
    }
    driver.kick(&mut device, 0).unwrap();
    driver.kick(&mut device, 1).unwrap();
    assert!(driver.used(0).len() < 10 && driver.used(1).len() < 10);
    assert_eq!(device.watches().len(), 2, "the tap is left alone");
    let done = |counters: &Counters| counters.requests.load(Ordering::Relaxed);
    while done(&device.counters().unwrap()) < 20 {
        assert!(driver.pump(&mut device, 60_000).unwrap());
    }
    assert!(device.counters().unwrap().throttled.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_tap_that_fails_again_and_again_is_a_pulled_cable() {
    let (mut device, wire) = net();
    let mut driver = Driver::new(&mut device, u64::MAX);
    drop(wire);
    let address = driver.place(&packet(60));
    for _ in 0..MAX_ERRORS {
        driver.add(1, &[(address, 72, false)]);
    }
    driver.kick(&mut device, 1).unwrap();
    let mut status = [0xff; 2];
    device.read_config(6, &mut status);
    assert_eq!((status, driver.interrupts.config.load(Ordering::SeqCst)), ([0, 0], 1));
    assert!(device.watches().is_empty());
}

#[test]
fn offloads_follow_what_the_driver_accepts() {
    assert_eq!(offload(0), 0);
    assert_eq!(offload(F_GUEST_TSO4), 0, "no segments without checksums");
    assert_eq!(offload(F_GUEST_CSUM | F_GUEST_ECN), 1);
    assert_eq!(offload(F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN), 15);
    let (mut device, _wire) = net();
    device.set_offload = |_, _| Err(io::Error::from_raw_os_error(libc::EINVAL));
    let mut driver = Driver::new(&mut device, 0);
    let error = driver.kick(&mut device, 0).unwrap_err();
    assert!(error.to_string().starts_with("net eth0: while setting the tap's offloads to 0x0"), "{error}");
}

#[test]
fn the_address_and_size_are_told() {
    let (device, _wire) =
        net_with(&NetOptions { mac: [2, 1, 2, 3, 4, 5], mtu: Some(1400), ..NetOptions::default() });
    let mut config = [0; 12];
    device.read_config(0, &mut config);
    assert_eq!(config, [2, 1, 2, 3, 4, 5, 1, 0, 1, 0, 0x78, 5]);
    assert_ne!(device.features() & F_MTU, 0);
}

#[test]
fn names_that_are_none_are_refused() {
    for name in ["", "a-name-of-16-byt", "nul\0"] {
        let error = tap::attach(vec![File::open("/dev/null").unwrap()], name).unwrap_err();
        assert!(matches!(error, tap::TapError::Name(_)), "{error}");
    }
    let error = tap::attach(vec![File::open("/dev/null").unwrap()], "tap0").unwrap_err();
    assert!(error.to_string().contains("ip tuntap add"), "{error}");
}

/// Needs the right to make a tap, so not for everybody: `cargo test -p vmm -- --ignored tap`.
#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_real_tap_takes_and_gives_packets() {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let name = format!("cctest{}", std::process::id() % 100_000);
    let tap = tap::attach(vec![tun], &name).unwrap();
    let run = |arguments: &[&str]| {
        assert!(std::process::Command::new("ip").args(arguments).status().unwrap().success())
    };
    run(&["address", "add", "10.254.254.1/24", "dev", &name]);
    run(&["link", "set", &name, "up"]);
    let mut device = Net::new(tap, &NetOptions::default()).unwrap();
    let mut driver = Driver::new(&mut device, u64::MAX);
    for n in 0..64 {
        driver.add(0, &[(WINDOW + n * 1600, 1600, true)]);
    }
    driver.kick(&mut device, 0).unwrap();
    // An ARP request for the host's address; the host answers it.
    let who_has: Vec<u8> = [
        &[0; 12][..],
        &[0xff; 6],
        &[2, 0, 0, 0, 0, 9],
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &[2, 0, 0, 0, 0, 9],
        &[10, 254, 254, 9],
        &[0; 6],
        &[10, 254, 254, 1],
    ]
    .concat();
    let address = driver.place(&who_has);
    driver.add(1, &[(address, who_has.len() as u32, false)]);
    driver.kick(&mut device, 1).unwrap();
    assert_eq!(driver.used(1).len(), 1);
    let mut at = 0;
    loop {
        for (head, len) in driver.wait(&mut device, 0, 1) {
            assert_eq!(head, at);
            let packet = driver.read(WINDOW + u64::from(at) * 1600, len as usize);
            if packet[24..34] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] {
                assert_eq!(packet[40..44], [10, 254, 254, 1]);
                assert_eq!(packet[10..12], [1, 0]);
                return;
            }
            at += 1;
        }
    }
}

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps(), features in any::<u64>(), packets in prop::collection::vec(0..3000_usize, 0..10)) {
        let (mut device, wire) = net();
        for len in packets {
            wire.send(&packet(len)).unwrap();
        }
        abuse(&mut device, features, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the buffers are: each packet arrives whole and in order, or not at all.
    #[test]
    fn packets_arrive_whole_and_in_order(
        buffers in prop::collection::vec(12..3000_u32, 1..150),
        packets in prop::collection::vec(1..20_000_usize, 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut device, wire) = net();
        let mut driver = Driver::new(&mut device, u64::MAX);
        let cut = cut.index(buffers.len());
        let mut places = Vec::new();
        let mut sent = packets.iter();
        for (n, len) in buffers.iter().enumerate() {
            if n == cut {
                sent.by_ref().take(2).for_each(|len| assert!(wire.send(&packet(*len)).is_ok()));
                driver.pump(&mut device, 0).unwrap();
            }
            let address = driver.alloc(u64::from(*len));
            places.push(address);
            driver.add(0, &[(address, *len, true)]);
            driver.kick(&mut device, 0).unwrap();
        }
        sent.for_each(|len| assert!(wire.send(&packet(*len)).is_ok()));
        while driver.pump(&mut device, 0).unwrap() {}
        let used = driver.used(0);
        let mut used = used.iter();
        let mut arrived = Vec::new();
        while let Some((head, len)) = used.next() {
            let mut bytes = driver.read(places[*head as usize], *len as usize);
            for _ in 1..u16::from_le_bytes([bytes[10], bytes[11]]) {
                let (head, len) = used.next().unwrap();
                bytes.extend(driver.read(places[*head as usize], *len as usize));
            }
            let (len, count) = (bytes.len() - HEADER, bytes[10]);
            prop_assert_eq!(&bytes, &seen(&packet(len), count));
            arrived.push(len);
        }
        prop_assert!(packets.starts_with(&arrived), "{:?} {:?}", packets, arrived);
    }
}
