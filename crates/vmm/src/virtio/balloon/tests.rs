use super::*;
use crate::virtio::mock::{DATA, Driver, RAM_SIZE, WINDOW, WINDOW_SIZE, abuse, steps};
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use vm_memory::GuestAddress;

const PAGE: u64 = 4096;

fn balloon() -> (Balloon, BalloonControl) {
    let ram = vec![Ram { range: 0..RAM_SIZE, backing: Backing::Private }];
    Balloon::new(BalloonOptions { ram, reporting: true, deflate_on_oom: true }).unwrap()
}

fn zero(driver: &Driver, address: u64) -> bool {
    driver.read(address, PAGE as usize) == [0; PAGE as usize]
}

fn fill(driver: &Driver, address: u64) {
    driver.write(address, &[7; PAGE as usize]);
}

#[test]
fn inflated_pages_are_the_hosts_and_others_are_not_touched() {
    let (mut device, control) = balloon();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let first = 2 << 20;
    (0..8).for_each(|n| fill(&driver, first + n * PAGE));
    fill(&driver, WINDOW);
    let numbers: Vec<u8> = [
        first / PAGE + 2,
        first / PAGE,
        first / PAGE + 1,
        first / PAGE + 6,
        WINDOW / PAGE,
        u64::from(u32::MAX),
        RAM_SIZE / PAGE,
    ]
    .iter()
    .flat_map(|number| (*number as u32).to_le_bytes())
    .collect();
    let list = driver.place(&numbers);
    driver.add(0, &[(list, numbers.len() as u32 + 3, false)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.used(0), [(0, 0)]);
    let gone: Vec<bool> = (0..8).map(|n| zero(&driver, first + n * PAGE)).collect();
    assert_eq!(gone, [true, true, true, false, false, false, true, false]);
    assert!(!zero(&driver, WINDOW));
    assert_eq!(control.freed(), 4 * PAGE);
    driver.add(1, &[(list, 16, false)]);
    driver.kick(&mut device, 1).unwrap();
    assert_eq!(driver.used(1), [(0, 0)]);
}

#[test]
fn reported_pages_are_the_hosts_whole_pages_only_and_no_window() {
    let (mut device, control) = balloon();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let first = 2 << 20;
    (0..8).for_each(|n| fill(&driver, first + n * PAGE));
    fill(&driver, WINDOW);
    driver.add(
        4,
        &[
            (first + 1, 3 * PAGE as u32, true),
            (first + 5 * PAGE, 2 * PAGE as u32, true),
            (WINDOW, PAGE as u32, true),
        ],
    );
    driver.add(4, &[(first + 4 * PAGE, PAGE as u32, false)]);
    driver.kick(&mut device, 4).unwrap();
    assert_eq!(driver.used(4).len(), 2);
    let gone: Vec<bool> = (0..8).map(|n| zero(&driver, first + n * PAGE)).collect();
    assert_eq!(gone, [false, true, true, false, false, true, true, false]);
    assert!(!zero(&driver, WINDOW));
    assert_eq!(control.freed(), 4 * PAGE);
}

#[test]
fn shared_memory_goes_back_too() {
    use vm_memory::{Bytes, FileOffset, GuestMemoryMmap};
    let file = tempfile::tempfile().unwrap();
    file.set_len(16 * PAGE).unwrap();
    let start = GuestAddress(0);
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files([(
        start,
        16 * PAGE as usize,
        Some(FileOffset::new(file.try_clone().unwrap(), 0)),
    )])
    .unwrap();
    memory.write_slice(&vec![9; 16 * PAGE as usize], start).unwrap();
    crate::virtio::guest_io::free_pages(&memory, start, 8 * PAGE as usize, Backing::Shared).unwrap();
    let mut bytes = vec![1; 9 * PAGE as usize];
    memory.read_slice(&mut bytes, start).unwrap();
    assert_eq!((bytes[8 * PAGE as usize - 1], bytes[8 * PAGE as usize]), (0, 9));
}

#[test]
fn the_target_is_told_and_what_the_driver_has_done_is_known() {
    let (mut device, control) = balloon();
    let mut driver = Driver::new(&mut device, u64::MAX);
    control.set_target(8 << 20);
    assert!(driver.pump(&mut device, 60_000).unwrap());
    let mut pages = [0; 4];
    device.read_config(0, &mut pages);
    assert_eq!((u32::from_le_bytes(pages), driver.interrupts.config.load(Ordering::SeqCst)), (2048, 1));
    device.write_config(4, &2000_u32.to_le_bytes());
    device.write_config(4, &[1]);
    device.write_config(0, &[9; 4]);
    assert_eq!(control.actual(), 2000 * PAGE);
    control.set_target(u64::MAX);
    assert!(driver.pump(&mut device, 60_000).unwrap());
    device.read_config(0, &mut pages);
    assert_eq!(u32::from_le_bytes(pages), u32::MAX);
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let (mut device, control) = balloon();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let list = driver.place(&[entry(4, 1000), entry(99, 1), entry(5, 2000)].concat());
    driver.add(2, &[(list, 35, false)]);
    driver.kick(&mut device, 2).unwrap();
    assert!(driver.used(2).is_empty(), "the buffer waits");
    assert_eq!(control.statistics()[4..6], [Some(1000), Some(2000)]);
    control.request_statistics();
    assert_eq!(driver.wait(&mut device, 2, 1), [(0, 0)]);
    driver.write(list, &entry(4, 3000));
    driver.add(2, &[(list, 10, false)]);
    driver.kick(&mut device, 2).unwrap();
    assert_eq!(control.statistics()[4..6], [Some(3000), Some(2000)]);
    driver.add(2, &[(list, 10, false)]);
    driver.kick(&mut device, 2).unwrap();
    assert_eq!(driver.used(2), [(1, 0)], "of two buffers the older goes back");
}

#[test]
fn queues_are_found_with_and_without_gaps() {
    for (gaps, reporting) in [(true, 4), (false, 2)] {
        let (mut device, control) = balloon();
        let driver = Driver::new(&mut device, 0);
        device.reset();
        let features = F_REPORTING;
        let mut queues: Vec<_> = (0..5).map(|index| Some(driver.queue(index))).collect();
        for index in if gaps { 2..4 } else { 3..5 } {
            queues[index] = None;
        }
        let interrupt: Arc<dyn Interrupt> = driver.interrupts.clone();
        device.activate(Activation { memory: driver.memory.clone(), queues, features, interrupt }).unwrap();
        let mut driver = driver;
        driver.add(reporting, &[(2 << 20, PAGE as u32, true)]);
        driver.kick(&mut device, reporting).unwrap();
        assert_eq!((driver.used(reporting).len(), control.freed()), (1, PAGE));
    }
}

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps(), features in any::<u64>()) {
        abuse(&mut balloon().0, features, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever ranges are reported: nothing outside of RAM is freed, and no byte beside what was reported.
    #[test]
    fn only_what_was_reported_goes(ranges in prop::collection::vec((0..RAM_SIZE, 0..40_000_u32), 1..5)) {
        let (mut device, _) = balloon();
        let mut driver = Driver::new(&mut device, u64::MAX);
        driver.write(DATA, &vec![5; (RAM_SIZE - DATA) as usize]);
        driver.write(WINDOW, &vec![5; WINDOW_SIZE as usize]);
        let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| (start.max(DATA), len.min((RAM_SIZE - start.max(DATA)) as u32), true)).collect();
        driver.add(4, &ranges);
        driver.kick(&mut device, 4).unwrap();
        let bytes = driver.read(DATA, (RAM_SIZE - DATA) as usize);
        let inside = |at: u64| ranges.iter().any(|(start, len, _)| (*start..*start + u64::from(*len)).contains(&at));
        prop_assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == 5 || inside(DATA + n as u64)));
        prop_assert_eq!(driver.read(WINDOW, 4096), vec![5; 4096]);
    }
}
