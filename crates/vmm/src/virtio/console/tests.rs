use super::*;
use crate::virtio::mock::{Driver, WINDOW, abuse, steps};
use proptest::prelude::*;
use std::io::{PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

fn file(end: impl Into<OwnedFd>) -> File {
    let file = File::from(end.into());
    rustix::io::ioctl_fionbio(&file, true).unwrap();
    file
}

/// A console between two pipes, and the host's ends of them.
fn console() -> (Console, PipeWriter, PipeReader) {
    let ((input, write), (read, output)) = (io::pipe().unwrap(), io::pipe().unwrap());
    (Console::new(Some(file(input)), Some(file(output)), Some((80, 25))).unwrap(), write, read)
}

#[test]
fn what_the_guest_writes_comes_out() {
    let (mut device, _write, mut read) = console();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let (first, second) = (driver.place(b"hello, "), driver.place(b"world"));
    driver.add(1, &[(first, 7, false), (second, 5, false)]);
    driver.kick(&mut device, 1).unwrap();
    assert_eq!(driver.used(1), [(0, 0)]);
    let mut text = [0; 12];
    read.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello, world");
}

#[test]
fn what_the_host_writes_comes_in_when_there_is_room() {
    let (mut device, mut write, _read) = console();
    let mut driver = Driver::new(&mut device, u64::MAX);
    write.write_all(b"ls\n").unwrap();
    assert!(device.watches().is_empty(), "without a buffer nobody looks at the file");
    driver.add(0, &[(WINDOW, 2, true)]);
    driver.add(0, &[(WINDOW + 2, 8, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.used(0), [(0, 2), (1, 1)]);
    driver.add(0, &[(WINDOW + 16, 8, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(device.watches().len(), 1);
    write.write_all(b"exit").unwrap();
    assert_eq!(driver.wait(&mut device, 0, 1), [(2, 4)]);
    assert_eq!(driver.read(WINDOW, 20), b"ls\n\0\0\0\0\0\0\0\0\0\0\0\0\0exit");
}

#[test]
fn a_slow_reader_holds_the_guest_up_and_loses_nothing() {
    let (mut device, _write, mut read) = console();
    let mut driver = Driver::new(&mut device, u64::MAX);
    let text: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let address = driver.place(&text);
    driver.add(1, &[(address, 300_000, false)]);
    driver.kick(&mut device, 1).unwrap();
    assert!(driver.used(1).is_empty());
    assert!(device.watches().iter().any(|watch| watch.writable));
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 300_000];
        read.read_exact(&mut all).unwrap();
        all
    });
    assert_eq!(driver.wait(&mut device, 1, 1), [(0, 0)]);
    assert_eq!(reader.join().unwrap(), text);
}

#[test]
fn a_reader_that_has_gone_and_an_input_at_its_end_stop_nobody() {
    let (mut device, write, read) = console();
    let mut driver = Driver::new(&mut device, u64::MAX);
    drop((write, read));
    for _ in 0..3 {
        driver.add(1, &[(WINDOW, 100, false)]);
        driver.add(0, &[(WINDOW, 100, true)]);
        driver.kick(&mut device, 1).unwrap();
        driver.kick(&mut device, 0).unwrap();
    }
    assert_eq!(driver.used(1).len(), 3);
    assert!(driver.used(0).is_empty() && device.watches().is_empty());
}

#[test]
fn regular_files_work_and_are_never_watched() {
    let (mut input, mut output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    input.write_all(b"typed").unwrap();
    input.seek(SeekFrom::Start(0)).unwrap();
    let mut device = Console::new(Some(input), Some(output.try_clone().unwrap()), None).unwrap();
    let mut driver = Driver::new(&mut device, u64::MAX);
    driver.add(0, &[(WINDOW, 100, true)]);
    driver.kick(&mut device, 0).unwrap();
    assert_eq!(driver.used(0), [(0, 5)]);
    driver.add(1, &[(WINDOW, 5, false)]);
    driver.kick(&mut device, 1).unwrap();
    assert!(device.watches().is_empty());
    device.write_config(EMERG_WRITE, b"!\0\0\0");
    device.write_config(0, b"?");
    let mut text = String::new();
    output.seek(SeekFrom::Start(0)).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "typed!");
}

#[test]
fn a_file_that_would_block_is_refused() {
    let (input, _write) = io::pipe().unwrap();
    let error = Console::new(Some(File::from(OwnedFd::from(input))), None, None).err().unwrap();
    assert!(error.to_string().contains("O_NONBLOCK"), "{error}");
    let null = File::open("/dev/null").unwrap();
    assert!(Console::new(Some(null), None, None).is_ok());
}

#[test]
fn the_size_is_told() {
    let (device, _write, _read) = console();
    let mut config = [0; 12];
    device.read_config(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(device.features() & F_SIZE, F_SIZE);
    assert_eq!(Console::new(None, None, None).unwrap().features() & F_SIZE, 0);
}

proptest! {
    #[test]
    fn hostile_guests_get_nowhere(steps in steps(), typed in prop::collection::vec(any::<u8>(), 0..100)) {
        let (mut device, mut write, _read) = console();
        write.write_all(&typed).unwrap();
        abuse(&mut device, u64::MAX, &steps);
    }
}
