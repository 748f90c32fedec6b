use super::*;
use crate::virtio::mock::{Driver, WINDOW, abuse, steps};
use crate::virtio::rate_limit::Rate;
use crate::virtio::ring::{F_EVENT_IDX, MAX_SEGMENTS};
use crate::virtio::workers::no_thread_start;
use proptest::prelude::*;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

const SECTORS: u64 = 256;

fn options(readonly: bool) -> BlockOptions {
    BlockOptions { serial: "root".into(), readonly, limits: Limits::default(), threads: 2 }
}

/// A file in which each sector is full of its number, and how it can be read.
fn image(readonly: bool) -> (File, File) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    let open = std::fs::OpenOptions::new().read(true).write(!readonly).open(file.path()).unwrap();
    let look = file.reopen().unwrap();
    (open, look)
}

fn disk(readonly: bool) -> (Block, File) {
    let (file, look) = image(readonly);
    (Block::new(file, &options(readonly), &no_thread_start()).unwrap(), look)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// Does one request with `out` behind the header and room for `room` bytes of data; returns status, data and used length.
fn request(
    driver: &mut Driver,
    device: &mut Block,
    kind: u32,
    sector: u64,
    out: &[u8],
    room: u32,
) -> (u8, Vec<u8>, u32) {
    let mut chain = vec![(driver.place(&header(kind, sector)), 16, false)];
    if !out.is_empty() {
        chain.push((driver.place(out), out.len() as u32, false));
    }
    let data = driver.alloc(u64::from(room));
    if room > 0 {
        chain.push((data, room, true));
    }
    let status = driver.place(&[0xff]);
    chain.push((status, 1, true));
    let head = driver.add(0, &chain);
    driver.kick(device, 0).unwrap();
    let used = driver.wait(device, 0, 1);
    assert_eq!((used.len(), used[0].0), (1, u32::from(head)));
    (driver.read(status, 1)[0], driver.read(data, room as usize), used[0].1)
}

#[test]
fn reads_what_is_on_the_disk() {
    for cached in [true, false] {
        let (mut device, _) = disk(true);
        device.cached_reads = cached;
        let mut driver = Driver::new(&mut device, u64::MAX);
        let (status, data, len) = request(&mut driver, &mut device, 0, 7, &[], 1024);
        assert_eq!((status, len), (0, 1025));
        assert_eq!(data, [[7_u8; 512], [8; 512]].concat());
        assert!(driver.interrupts.queue.load(std::sync::atomic::Ordering::SeqCst) >= 1);
    }
}

#[test]
fn writes_are_on_the_disk_with_and_without_flush_negotiated() {
    for features in [u64::MAX, !F_FLUSH] {
        let (mut device, look) = disk(false);
        let mut driver = Driver::new(&mut device, features);
        assert_eq!(device.active.as_ref().unwrap().sync, features & F_FLUSH == 0);
        let (status, _, len) = request(&mut driver, &mut device, 1, 3, &[0xab; 1536], 0);
        assert_eq!((status, len), (0, 1));
        let mut back = [0; 2048];
        look.read_exact_at(&mut back, 3 * 512).unwrap();
        assert_eq!(back[..1536], [0xab; 1536]);
        assert_eq!(back[1536..], [6; 512]);
        assert_eq!(request(&mut driver, &mut device, 4, 0, &[], 0).0, 0);
    }
}

#[test]
fn a_read_only_disk_refuses_every_way_to_write() {
    let (mut device, look) = disk(true);
    assert_eq!(device.features() & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let extent = [&0_u64.to_le_bytes()[..], &8_u32.to_le_bytes(), &0_u32.to_le_bytes()].concat();
    for (kind, data) in [(1, vec![1; 512]), (11, extent.clone()), (13, extent)] {
        assert_eq!(request(&mut driver, &mut device, kind, 0, &data, 0).0, 1);
    }
    let mut back = vec![0; 512];
    look.read_exact_at(&mut back, 512).unwrap();
    assert_eq!(back, [1; 512]);
}

#[test]
fn a_file_that_is_open_for_something_else_is_refused() {
    let refused =
        |file, readonly| Block::new(file, &options(readonly), &no_thread_start()).err().unwrap().to_string();
    assert!(refused(image(true).0, false).contains("give the disk as read-only"));
    assert!(refused(image(false).0, true).contains("open it for reading only"));
    let odd = image(false).0;
    odd.set_len(1000).unwrap();
    assert!(refused(odd, false).contains("1000 bytes"));
}

#[test]
fn the_end_of_the_disk_is_the_end() {
    let (mut device, _) = disk(false);
    let mut driver = Driver::new(&mut device, u64::MAX);
    assert_eq!(request(&mut driver, &mut device, 0, SECTORS - 1, &[], 512).0, 0);
    for (sector, len) in [(SECTORS - 1, 1024), (SECTORS, 512), (u64::MAX, 512), (1 << 55, 512), (0, 100)] {
        assert_eq!(request(&mut driver, &mut device, 0, sector, &[], len).0, 1, "{sector} {len}");
        assert_eq!(
            request(&mut driver, &mut device, 1, sector, &vec![0; len as usize], 0).0,
            1,
            "{sector} {len}"
        );
    }
}

#[test]
fn discard_and_write_zeroes_leave_zeros_and_give_space_back() {
    let (mut device, look) = disk(false);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let extent = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let zeros = |from: u64, count: usize| {
        let mut back = vec![1; count * 512];
        look.read_exact_at(&mut back, from * 512).unwrap();
        back == vec![0; count * 512]
    };
    let before = look.metadata().unwrap().blocks();
    let two = [extent(8, 8, 0), extent(32, 64, 0)].concat();
    assert_eq!(request(&mut driver, &mut device, 11, 0, &two, 0).0, 0);
    assert!(zeros(8, 8) && zeros(32, 64) && !zeros(16, 1) && look.metadata().unwrap().blocks() < before);
    for (sector, flags) in [(100, 0), (120, 1)] {
        assert_eq!(request(&mut driver, &mut device, 13, 0, &extent(sector, 9, flags), 0).0, 0);
        assert!(zeros(sector, 9) && !zeros(sector + 9, 1) && !zeros(sector - 1, 1));
    }
    assert_eq!(look.metadata().unwrap().len(), SECTORS * 512);
    let refused = [
        (11, extent(0, 8, 1), 2),
        (13, extent(0, 8, 2), 2),
        (11, extent(SECTORS - 1, 2, 0), 1),
        (13, extent(u64::MAX, 1, 0), 1),
        (13, extent(0, 0, 0), 1),
        (13, extent(0, MAX_ZERO_SECTORS + 1, 0), 1),
        (11, extent(0, 1, 0).repeat(MAX_EXTENTS as usize + 1), 1),
        (11, vec![0; 15], 1),
        (11, vec![], 1),
    ];
    for (kind, data, status) in refused {
        assert_eq!(request(&mut driver, &mut device, kind, 0, &data, 0).0, status, "{kind} {data:?}");
    }
}

#[test]
fn the_name_is_given_and_what_is_unknown_is_not_supported() {
    let (mut device, _) = disk(true);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let (status, name, len) = request(&mut driver, &mut device, 8, 0, &[], 20);
    assert_eq!((status, len, &name[..]), (0, 21, &b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]));
    assert_eq!(request(&mut driver, &mut device, 8, 0, &[], 19).0, 1);
    assert_eq!(request(&mut driver, &mut device, 14, 0, &[], 0).0, 2);
}

#[test]
fn headers_and_data_may_be_cut_anywhere_and_lie_in_a_window() {
    let (mut device, _) = disk(true);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let head = driver.place(&header(0, 5));
    driver.write(WINDOW + 4096, &[0xee; 600]);
    // The status is the last byte of a piece that begins with data.
    let chain =
        [(head, 3, false), (head + 3, 13, false), (WINDOW + 4096, 100, true), (WINDOW + 4196, 413, true)];
    driver.add_indirect(0, &chain);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1)[0].1, 513);
    assert_eq!(driver.read(WINDOW + 4096, 514), [&[5; 512][..], &[0, 0xee]].concat());
}

#[test]
fn a_chain_without_room_for_a_status_is_given_back_untouched() {
    let (mut device, look) = disk(false);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let head = driver.place(&header(1, 0));
    let data = driver.place(&[9; 512]);
    driver.add(0, &[(head, 16, false), (data, 512, false)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1), [(0, 0)]);
    let mut back = [1; 512];
    look.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back, [0; 512]);
}

#[test]
fn more_requests_than_the_budget_and_the_queue_are_all_done() {
    let (mut device, _) = disk(false);
    let mut driver = Driver::new(&mut device, u64::MAX);
    let head = driver.place(&header(1, 0));
    let status = driver.alloc(1);
    for round in 0..5 {
        for _ in 0..100 {
            driver.add(0, &[(head, 16, false), (status, 1, true)]);
        }
        driver.kick(&mut device, 0).unwrap();
        assert_eq!(driver.wait(&mut device, 0, 100).len(), 100, "{round}");
    }
}

#[test]
fn a_rate_limit_delays_and_loses_nothing() {
    let (file, _) = image(true);
    let limits = Limits { bytes: None, ops: Some(Rate { per_second: 500, burst: 5 }) };
    let mut device = Block::new(file, &BlockOptions { limits, ..options(true) }, &no_thread_start()).unwrap();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let head = driver.place(&header(0, 1));
    let data = driver.alloc(513);
    for _ in 0..20 {
        driver.add(0, &[(head, 16, false), (data, 513, true)]);
    }
    driver.kick(&mut device, 0).unwrap();
    assert!(device.watches().iter().any(|watch| watch.token == TOKEN_LIMIT));
    assert_eq!(driver.wait(&mut device, 0, 20).len(), 20);
    assert!(device.counters().unwrap().throttled.load(std::sync::atomic::Ordering::Relaxed) > 0);
}

#[test]
fn a_reset_forgets_requests_and_the_next_driver_starts_afresh() {
    let (mut device, _) = disk(false);
    device.cached_reads = false;
    let mut driver = Driver::new(&mut device, !F_EVENT_IDX);
    let head = driver.place(&header(0, 1));
    let data = driver.alloc(513);
    for _ in 0..10 {
        driver.add(0, &[(head, 16, false), (data, 513, true)]);
    }
    driver.kick(&mut device, 0).unwrap();
    driver.reset(&mut device);
    assert!(driver.used(0).is_empty());
    assert_eq!(request(&mut driver, &mut device, 0, 2, &[], 512).1, [2; 512]);
}

#[test]
fn a_file_cut_short_by_the_host_is_an_error_for_the_guest() {
    let (mut device, look) = disk(false);
    let mut driver = Driver::new(&mut device, u64::MAX);
    look.set_len(512).unwrap();
    let (status, _, len) = request(&mut driver, &mut device, 0, 0, &[], 1024);
    assert_eq!((status, len), (1, 1));
}

#[test]
fn a_driver_that_breaks_the_ring_is_told_once() {
    let (mut device, _) = disk(true);
    let mut driver = Driver::new(&mut device, u64::MAX);
    driver.add(0, &[(crate::virtio::mock::RAM_SIZE - 8, 16, false)]);
    let error = driver.kick(&mut device, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "block root: queue 0: a descriptor points outside of guest memory, or is to be written where nobody may"
    );
    driver.kick(&mut device, 0).unwrap();
    driver.reset(&mut device);
    let long: Vec<_> = (0..=MAX_SEGMENTS).map(|_| (crate::virtio::mock::DATA, 1, false)).collect();
    driver.add_indirect(0, &long);
    assert!(driver.kick(&mut device, 0).unwrap_err().to_string().contains("too many descriptors"));
}

#[test]
fn config_reads_are_cut_at_its_end() {
    let (device, _) = disk(false);
    let mut all = [0xff; 64];
    device.read_config(0, &mut all);
    assert_eq!(all[..8], SECTORS.to_le_bytes());
    assert_eq!(all[60..], [0xff; 4], "beyond the end nothing is touched");
    let mut odd = [0xff; 3];
    device.read_config(u64::MAX, &mut odd);
    assert_eq!(odd, [0xff; 3]);
    device.read_config(13, &mut odd);
    assert_eq!(odd, SEG_MAX.to_le_bytes()[1..]);
}

#[test]
fn a_block_device_or_file_is_as_long_as_its_end() {
    let (mut file, _) = image(true);
    file.seek(SeekFrom::Start(0)).unwrap();
    assert_eq!(Disk::new(file, true).unwrap().bytes(), SECTORS * 512);
}

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps(), readonly in any::<bool>()) {
        let (mut device, look) = disk(readonly);
        abuse(&mut device, u64::MAX, &steps);
        prop_assert_eq!(look.metadata().unwrap().len(), SECTORS * 512);
        if readonly {
            let mut back = vec![0; (SECTORS * 512) as usize];
            look.read_exact_at(&mut back, 0).unwrap();
            prop_assert!(back.chunks(512).enumerate().all(|(n, sector)| sector.iter().all(|b| *b == n as u8)));
        }
    }
}

#[test]
fn a_disk_that_was_taken_away_answers_with_errors() {
    for in_cache in [true, false] {
        let (mut device, _) = disk(false);
        device.cached_reads = in_cache;
        let disk = Arc::downgrade(device.disk.as_ref().unwrap());
        let mut driver = Driver::new(&mut device, u64::MAX);
        let data = driver.place(&[1; 512]);
        // Under way when it is taken away, and offered but not yet seen.
        let chain =
            [(driver.place(&header(1, 3)), 16, false), (data, 512, false), (driver.alloc(1), 1, true)];
        driver.add(0, &chain);
        driver.kick(&mut device, 0).unwrap();
        driver.add(0, &chain);
        device.withdraw().unwrap();
        assert_eq!(driver.wait(&mut device, 0, 2).len(), 2);
        assert_eq!(disk.strong_count(), 0, "the file is closed");
        for (kind, room) in [(0, 512), (4, 0), (8, 20)] {
            let (status, ..) = request(&mut driver, &mut device, kind, 0, &[], room);
            assert_eq!(status, Status::IoError as u8, "{kind}");
        }
        driver.reset(&mut device);
    }
}
