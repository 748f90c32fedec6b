use super::*;
use crate::virtio::device::{Activation, Device};
use crate::virtio::mock::{DATA, Driver, IMAGE, IMAGE_SIZE, RAM_SIZE, WINDOW};
use proptest::prelude::*;
use std::sync::atomic::Ordering as Order;

/// A device that is nothing but a ring.
struct Bare {
    ring: Option<Ring>,
}

impl Device for Bare {
    fn name(&self) -> &str {
        "bare"
    }
    fn kind(&self) -> u32 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }
    fn features(&self) -> u64 {
        RING_FEATURES
    }
    fn read_config(&self, _: u64, _: &mut [u8]) {}
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        self.ring = Some(Ring::new("bare", queues[0].take().unwrap(), features, &memory, &interrupt)?);
        Ok(())
    }
    fn kick(&mut self, _: u16) -> Result<(), DeviceError> {
        Ok(())
    }
    fn reset(&mut self) {}
}

fn ring(features: u64) -> (Ring, Driver) {
    let mut device = Bare { ring: None };
    let driver = Driver::new(&mut device, features);
    (device.ring.unwrap(), driver)
}

#[test]
fn what_is_only_read_may_cross_into_an_image() {
    let (mut ring, mut driver) = ring(0);
    driver.add(0, &[(IMAGE - 1, IMAGE_SIZE as u32 + 1, false)]);
    assert_eq!(ring.next().unwrap().unwrap().readable.len(), IMAGE_SIZE + 1);
}

#[test]
fn a_used_ring_in_an_image_is_refused() {
    let (_, driver) = ring(0);
    let mut queue = driver.queue(0);
    queue.queue.try_set_used_ring_address(GuestAddress(IMAGE)).unwrap();
    let interrupt: Arc<dyn Interrupt> = driver.interrupts.clone();
    let error = Ring::new("bare", queue, 0, &driver.memory, &interrupt).err().unwrap();
    assert!(error.to_string().contains("where nobody may write"), "{error}");
}

fn segment(address: u64, len: u32) -> Segment {
    Segment { address: GuestAddress(address), len }
}

#[test]
fn chains_come_as_they_are_offered_directly_and_indirectly() {
    let (mut ring, mut driver) = ring(u64::MAX);
    let chain = [(DATA, 3, false), (WINDOW, 0, false), (WINDOW, 5, false), (DATA + 9, 7, true)];
    driver.add(0, &chain);
    driver.add_indirect(0, &chain);
    for head in [0, 4] {
        let chain = ring.next().unwrap().unwrap();
        assert_eq!((chain.head, chain.readable.len(), chain.writable.len()), (head, 8, 7));
        assert_eq!(chain.readable.segments(), [segment(DATA, 3), segment(WINDOW, 5)]);
        assert_eq!(chain.writable.segments(), [segment(DATA + 9, 7)]);
    }
    assert_eq!(ring.next().unwrap(), None);
    ring.undo();
    assert_eq!(ring.next().unwrap().unwrap().head, 4);
}

type Pieces<'a> = &'a [(u64, u32, bool)];

#[test]
fn each_broken_chain_breaks_the_ring_once() {
    let long = [(DATA, 1, false); 2];
    let cases: [(Pieces<'_>, &str); 7] = [
        (&[(RAM_SIZE - 1, 2, false)], "outside of guest memory"),
        (&[(u64::MAX, 1, true)], "outside of guest memory"),
        (&[(IMAGE + 8, 1, true)], "where nobody may"),
        (&[(IMAGE - 1, 2, true)], "where nobody may"),
        (&[(IMAGE - 1, IMAGE_SIZE as u32 + 2, false)], "outside of guest memory"),
        (&[(DATA, 1, true), (DATA, 1, false)], "behind what is to be written"),
        (&long, "does not end"),
    ];
    for (chain, reason) in cases {
        let (mut ring, mut driver) = ring(u64::MAX);
        driver.add(0, chain);
        if reason == "does not end" {
            // The second descriptor leads back to the first.
            driver.write(16 + 12, &[1, 0, 0, 0]);
        }
        let error = ring.next().unwrap_err().to_string();
        assert!(error.starts_with("bare: queue 0: ") && error.contains(reason), "{error}");
        driver.add(0, &[(DATA, 1, false)]);
        assert_eq!(ring.next().unwrap(), None);
        ring.complete(0, 0).unwrap();
        ring.signal().unwrap();
        assert!(driver.used(0).is_empty() && !ring.rearm().unwrap());
    }
}

#[test]
fn an_index_too_far_ahead_and_heads_that_are_none_break_the_ring() {
    let (mut broken, driver) = ring(u64::MAX);
    driver.write(32 << 10, &[0, 0, 17, 0]);
    assert!(broken.next().unwrap_err().to_string().contains("further ahead"));
    let (mut broken, _driver) = ring(u64::MAX);
    assert!(broken.complete(16, 0).unwrap_err().to_string().contains("beyond the queue"));
}

#[test]
fn several_are_given_back_at_once_around_the_end_of_the_ring() {
    let (mut ring, mut driver) = ring(0);
    for round in 0..5 {
        for n in 0..5 {
            driver.add(0, &[(DATA, n, true)]);
        }
        let heads: Vec<(u16, u32)> =
            std::iter::from_fn(|| ring.next().unwrap()).map(|chain| (chain.head, 1)).collect();
        ring.complete_all(&heads).unwrap();
        ring.signal().unwrap();
        let used: Vec<u16> = driver.used(0).iter().map(|(head, _)| *head as u16).collect();
        assert_eq!(used, heads.iter().map(|(head, _)| *head).collect::<Vec<_>>());
        assert_eq!(driver.interrupts.queue.load(Order::SeqCst), round + 1);
    }
    ring.signal().unwrap();
    assert_eq!(driver.interrupts.queue.load(Order::SeqCst), 5, "nothing new, no interrupt");
}

#[test]
fn drivers_that_look_by_themselves_are_left_alone() {
    let give_back = |ring: &mut Ring, driver: &mut Driver| {
        driver.add(0, &[(DATA, 1, true)]);
        let head = ring.next().unwrap().unwrap().head;
        ring.complete(head, 0).unwrap();
        ring.signal().unwrap();
        driver.interrupts.queue.swap(0, Order::SeqCst)
    };
    let (mut plain, mut driver) = ring(0);
    assert_eq!(give_back(&mut plain, &mut driver), 1);
    driver.write(32 << 10, &[1, 0]);
    assert_eq!(give_back(&mut plain, &mut driver), 0);
    // With EVENT_IDX: an interrupt when the entry that the driver names has been used, and only then.
    let (mut events, mut driver) = ring(u64::MAX);
    let used_event = (32 << 10) + 4 + 2 * 16;
    driver.write(used_event, &[2, 0]);
    let seen: Vec<usize> = (0..5).map(|_| give_back(&mut events, &mut driver)).collect();
    assert_eq!(seen, [0, 0, 1, 0, 0]);
}

proptest! {
    /// Splitting and copying are what they are for one string of bytes.
    #[test]
    fn buffers_are_a_string_of_bytes(lens in prop::collection::vec(0..20_u32, 0..8), at in 0..150_u64, skip in 0..150_u64, data in prop::collection::vec(1..=255_u8, 0..60)) {
        let (_ring, driver) = ring(0);
        let mut all = Buffers::default();
        let mut address = DATA;
        for len in lens {
            all.push(segment(address, len));
            address += u64::from(len) + 3;
        }
        let total = all.len() as usize;
        let skipped = (skip as usize).min(total);
        let fits = data.len().min(total - skipped);
        prop_assert_eq!(all.write_at(&driver.memory, skip, &data), fits);
        let mut bytes = vec![0xee; total + 5];
        prop_assert_eq!(all.read(&driver.memory, &mut bytes), total);
        let expected = [vec![0; skipped], data[..fits].to_vec(), vec![0; total - skipped - fits], vec![0xee; 5]].concat();
        prop_assert_eq!(&bytes, &expected);
        let (front, back) = all.split(at);
        prop_assert_eq!((front.len(), back.len()), (at.min(total as u64), (total as u64).saturating_sub(at)));
        let (mut one, mut two) = (vec![0; front.len() as usize], vec![0; back.len() as usize]);
        front.read(&driver.memory, &mut one);
        back.read(&driver.memory, &mut two);
        prop_assert_eq!([one, two].concat(), &expected[..total]);
    }
}

#[test]
fn counters_know_what_went_through() {
    let (ring, mut driver) = ring(0);
    let counters = Arc::default();
    let mut ring = ring.counted(&counters);
    let data = driver.alloc(64);
    driver.add(0, &[(data, 10, false), (data + 16, 20, true)]);
    let chain = ring.next().unwrap().unwrap();
    ring.complete(chain.head, 7).unwrap();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Order::Relaxed);
    let seen = (read(&counters.requests), read(&counters.bytes_from_guest), read(&counters.bytes_to_guest));
    assert_eq!(seen, (1, 10, 7));
}
