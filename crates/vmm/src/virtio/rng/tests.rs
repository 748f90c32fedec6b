use super::{DEFAULT_LIMITS, Limits, Rate, Rng, request};
use crate::virtio::device::Device;
use crate::virtio::mock::{Driver, WINDOW, abuse, steps};
use proptest::prelude::*;

#[test]
fn requests_are_filled_with_bytes_that_differ() {
    let mut device = Rng::new(Limits::default()).unwrap();
    let mut driver = Driver::new(&mut device, u64::MAX);
    driver.add(0, &[(WINDOW, 30, true), (WINDOW + 100, 34, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.used(0), [(0, 64)]);
    let (first, second) = (driver.read(WINDOW, 30), driver.read(WINDOW + 100, 34));
    assert_ne!(first, [0; 30]);
    assert_ne!(first, second[..30]);
    assert_eq!(driver.read(WINDOW + 30, 70), [0; 70]);
}

#[test]
fn a_large_request_gets_a_page() {
    let mut device = Rng::new(Limits::default()).unwrap();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let room = driver.alloc(1 << 20);
    driver.add(0, &[(room, 1 << 20, true)]);
    driver.add(0, &[(room, 16, false)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.used(0), [(0, request::MAX_BYTES as u32), (1, 0)]);
}

#[test]
fn a_flood_waits_for_the_timer_and_is_served_after_it() {
    let limits = Limits { bytes: Some(Rate { per_second: 1 << 20, burst: 4096 }), ops: None };
    let mut device = Rng::new(limits).unwrap();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let room = driver.alloc(4096);
    for _ in 0..40 {
        driver.add(0, &[(room, 4096, true)]);
    }
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(device.watches().len(), 1);
    assert!(driver.used(0).len() < 40);
    let mut driver = Driver::new(&mut device, u64::MAX);
    driver.add(0, &[(room, 4096, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1), [(0, 4096)]);
}

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps()) {
        abuse(&mut Rng::new(DEFAULT_LIMITS).unwrap(), u64::MAX, &steps);
    }
}
