use super::*;
use crate::virtio::mock::{Driver, abuse, steps};
use crate::virtio::workers::no_thread_start;
use proptest::prelude::*;

fn device(flush: Flush) -> Pmem {
    Pmem::new("image", 1 << 40, 2 << 20, flush, &no_thread_start()).unwrap()
}

fn writable() -> Flush {
    Flush::File(tempfile::tempfile().unwrap())
}

/// A pipe cannot be flushed.
fn broken() -> Flush {
    let (_, write) = io::pipe().unwrap();
    Flush::File(File::from(std::os::fd::OwnedFd::from(write)))
}

fn request(flush: Flush, kind: u32) -> Vec<u8> {
    let mut device = device(flush);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let (ask, answer) = (driver.place(&kind.to_le_bytes()), driver.place(&[7; 4]));
    driver.add(0, &[(ask, 4, false), (answer, 4, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1), [(0, 4)]);
    driver.read(answer, 4)
}

#[test]
fn a_flush_is_answered_truthfully() {
    assert_eq!(request(Flush::Nothing, 0), [0; 4]);
    assert_eq!(request(writable(), 0), [0; 4]);
    assert_eq!(request(broken(), 0), [0xff; 4]);
    assert_eq!(request(Flush::Nothing, 1), [0xff; 4]);
    assert_eq!(request(writable(), 9), [0xff; 4]);
}

#[test]
fn flushes_that_come_together_are_all_answered() {
    let mut device = device(writable());
    let mut driver = Driver::new(&mut device, u64::MAX);
    let (ask, answer) = (driver.place(&[0; 4]), driver.alloc(4));
    for _ in 0..3 {
        for _ in 0..32 {
            driver.add(0, &[(ask, 4, false), (answer, 4, true)]);
        }
        driver.kick(&mut device, 0).unwrap();
        assert_eq!(driver.wait(&mut device, 0, 32).len(), 32);
    }
}

#[test]
fn an_answer_without_room_is_left_out() {
    let mut device = device(Flush::Nothing);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let ask = driver.place(&[0; 4]);
    driver.add(0, &[(ask, 4, false)]);
    driver.add(0, &[(ask, 3, false), (ask + 8, 2, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.used(0), [(0, 0), (1, 2)]);
}

#[test]
fn the_driver_is_told_where_the_memory_is() {
    let mut config = [0; 16];
    device(Flush::Nothing).read_config(0, &mut config);
    assert_eq!(config[..8], (1_u64 << 40).to_le_bytes());
    assert_eq!(config[8..], (2_u64 << 20).to_le_bytes());
}

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps(), kind in 0..3) {
        let mut device = device(match kind { 0 => Flush::Nothing, 1 => writable(), _ => broken() });
        abuse(&mut device, u64::MAX, &steps);
    }
}

#[test]
fn an_image_that_was_taken_away_cannot_be_flushed() {
    for flush in [Flush::Nothing, writable()] {
        let mut device = device(flush);
        let mut driver = Driver::new(&mut device, u64::MAX);
        let (ask, answer) = (driver.place(&[0; 4]), driver.place(&[7; 4]));
        // One may be under way, another waits for it.
        for _ in 0..2 {
            let room = driver.alloc(4);
            driver.add(0, &[(ask, 4, false), (room, 4, true)]);
            driver.kick(&mut device, 0).unwrap();
        }
        device.withdraw().unwrap();
        assert!(device.file.is_none());
        driver.wait(&mut device, 0, 2);
        driver.add(0, &[(ask, 4, false), (answer, 4, true)]);
        driver.kick(&mut device, 0).unwrap();
        assert_eq!(driver.wait(&mut device, 0, 1).len(), 1);
        assert_eq!(driver.read(answer, 4), [0xff; 4]);
    }
}
