use super::*;
use crate::virtio::mock::{Driver, WINDOW, WINDOW_SIZE, abuse, steps};
use proptest::prelude::*;

const BLOCK: u64 = 64 << 10;

fn mem() -> (Mem, MemControl) {
    Mem::new(WINDOW..WINDOW + WINDOW_SIZE, BLOCK, Backing::Private).unwrap()
}

/// One request; returns type and state of the answer.
fn ask(driver: &mut Driver, device: &mut Mem, kind: u16, block: u64, count: u16) -> (u16, u16) {
    let address = WINDOW.wrapping_add(block.wrapping_mul(BLOCK));
    let raw =
        [&kind.to_le_bytes()[..], &[0; 6], &address.to_le_bytes(), &count.to_le_bytes(), &[0; 6]].concat();
    let (request, answer) = (driver.place(&raw), driver.place(&[0xff; 10]));
    driver.add(0, &[(request, 24, false), (answer, 10, true)]);
    driver.kick(device, 0).unwrap();
    assert_eq!(driver.used(0)[0].1, 10);
    let raw = driver.read(answer, 10);
    (u16::from_le_bytes([raw[0], raw[1]]), u16::from_le_bytes([raw[8], raw[9]]))
}

const ACK: (u16, u16) = (0, 0);

#[test]
fn blocks_are_plugged_up_to_what_was_requested_and_unplugged_ones_go_back() {
    let (mut device, control) = mem();
    let mut driver = Driver::new(&mut device, u64::MAX);
    assert_eq!(ask(&mut driver, &mut device, 0, 0, 1), (1, 0), "nothing was requested");
    assert_eq!(control.request(8 * BLOCK + 5), 8 * BLOCK);
    assert!(driver.pump(&mut device, 60_000).unwrap());
    assert_eq!(driver.interrupts.config.load(Ordering::SeqCst), 1);
    assert_eq!(ask(&mut driver, &mut device, 0, 2, 6), ACK);
    assert_eq!(ask(&mut driver, &mut device, 0, 8, 3), (1, 0));
    assert_eq!(ask(&mut driver, &mut device, 0, 7, 1), (3, 0), "already plugged");
    assert_eq!(control.plugged(), 6 * BLOCK);
    assert_eq!(ask(&mut driver, &mut device, 3, 2, 6), (0, 0));
    assert_eq!(ask(&mut driver, &mut device, 3, 0, 2), (0, 1));
    assert_eq!(ask(&mut driver, &mut device, 3, 0, 4), (0, 2));
    driver.write(WINDOW + 3 * BLOCK, &[7; 9]);
    driver.write(WINDOW + 4 * BLOCK, &[7; 9]);
    assert_eq!(ask(&mut driver, &mut device, 1, 3, 1), ACK);
    assert_eq!(
        (driver.read(WINDOW + 3 * BLOCK, 9), driver.read(WINDOW + 4 * BLOCK, 9)),
        (vec![0; 9], vec![7; 9])
    );
    assert_eq!(ask(&mut driver, &mut device, 1, 3, 1), (3, 0), "already unplugged");
    assert_eq!(ask(&mut driver, &mut device, 2, 0, 0), ACK);
    assert_eq!((control.plugged(), driver.read(WINDOW + 4 * BLOCK, 9)), (0, vec![0; 9]));
}

#[test]
fn ranges_outside_of_the_region_are_errors() {
    let (mut device, control) = mem();
    control.request(u64::MAX);
    let mut driver = Driver::new(&mut device, u64::MAX);
    driver.pump(&mut device, 60_000).unwrap();
    let blocks = WINDOW_SIZE / BLOCK;
    for kind in [0, 1, 3] {
        for (block, count) in
            [(blocks, 1), (blocks - 1, 2), (0, 0), (u64::MAX, 1), (0, u16::MAX), (1 << 40, 1)]
        {
            assert_eq!(ask(&mut driver, &mut device, kind, block, count), (3, 0), "{kind} {block} {count}");
        }
    }
    assert_eq!(ask(&mut driver, &mut device, 9, 0, 1), (3, 0));
    assert_eq!(ask(&mut driver, &mut device, 0, 0, blocks as u16), ACK);
}

#[test]
fn blocks_survive_a_reset_of_the_driver() {
    let (mut device, control) = mem();
    control.request(BLOCK);
    let mut driver = Driver::new(&mut device, u64::MAX);
    driver.pump(&mut device, 60_000).unwrap();
    assert_eq!(ask(&mut driver, &mut device, 0, 0, 1), ACK);
    driver.reset(&mut device);
    assert_eq!(ask(&mut driver, &mut device, 3, 0, 1), (0, 0));
    let mut config = [0; 56];
    device.read_config(0, &mut config);
    let words: Vec<u64> =
        config.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [BLOCK, 0, WINDOW, WINDOW_SIZE, WINDOW_SIZE, BLOCK, BLOCK]);
}

#[test]
fn regions_that_do_not_fit_are_refused() {
    let refused =
        |region: Range<u64>, block| Mem::new(region, block, Backing::Private).err().unwrap().to_string();
    assert!(refused(0..BLOCK, 1000).contains("power of two"));
    assert!(refused(0..BLOCK, 2048).contains("power of two"));
    for region in
        [0..0, 1..BLOCK, 0..BLOCK + 1, Range { start: 2 * BLOCK, end: BLOCK }, 0..(MAX_BLOCKS_PLUS * BLOCK)]
    {
        assert!(refused(region, BLOCK).contains("whole blocks"));
    }
}

const MAX_BLOCKS_PLUS: u64 = blocks::MAX_BLOCKS + 1;

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps()) {
        let (mut device, control) = mem();
        control.request(4 * BLOCK);
        abuse(&mut device, u64::MAX, &steps);
        prop_assert!(control.plugged() <= 4 * BLOCK);
    }

    /// Against a model that is just a set: the same answers, and never more than was requested.
    #[test]
    fn blocks_are_what_a_set_would_be(operations in prop::collection::vec((0..4_u16, 0..18_u64, 0..5_u16), 1..60)) {
        let (mut device, control) = mem();
        control.request(9 * BLOCK);
        let mut driver = Driver::new(&mut device, u64::MAX);
        driver.pump(&mut device, 60_000).unwrap();
        let mut model = std::collections::BTreeSet::new();
        for (kind, block, count) in operations {
            let range = block..block + u64::from(count);
            let valid = count > 0 && range.end <= 16;
            let inside = range.clone().filter(|b| model.contains(b)).count();
            let expected = match kind {
                2 => { model.clear(); ACK }
                _ if !valid => (3, 0),
                0 if inside > 0 => (3, 0),
                0 if model.len() + usize::from(count) > 9 => (1, 0),
                0 => { model.extend(range); ACK }
                1 if inside < usize::from(count) => (3, 0),
                1 => { model.retain(|b| !range.contains(b)); ACK }
                _ => (0, match inside { 0 => 1, n if n == usize::from(count) => 0, _ => 2 }),
            };
            prop_assert_eq!(ask(&mut driver, &mut device, kind, block, count), expected);
            prop_assert_eq!(control.plugged(), model.len() as u64 * BLOCK);
        }
    }
}
