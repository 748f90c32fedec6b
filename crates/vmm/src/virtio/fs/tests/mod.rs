//! The device and the share in it, through raw requests.

mod client;
mod contents;
mod escape;
mod hostile;
mod objects;

use super::share::window::Window;
use super::share::{Share, ShareError, ShareOptions};
use super::*;
use crate::virtio::workers::no_thread_start;
use client::{Client, open_directory};

fn share(directory: &std::path::Path) -> Arc<Share> {
    Arc::new(Share::new(open_directory(directory), ShareOptions::default()).unwrap())
}

#[test]
fn identity() {
    let directory = tempfile::tempdir().unwrap();
    let window = SharedMemory { id: 9, address: 1 << 32, size: 1 << 21 };
    let device = Fs::new("my-tag", share(directory.path()), Some(window), 1, &no_thread_start()).unwrap();
    let mut config = [0xff; 42];
    device.read_config(0, &mut config);
    assert_eq!(&config[..7], b"my-tag\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0xff, 0xff]);
    device.read_config(u64::MAX, &mut config);
    assert_eq!((device.kind(), device.queue_sizes().len(), device.name()), (26, 2, "fs my-tag"));
    assert_eq!(device.shared_memory(), Some(SharedMemory { id: 0, ..window }));
}

#[test]
fn tags_have_a_length() {
    let directory = tempfile::tempdir().unwrap();
    for tag in ["", &"x".repeat(37)] {
        let made = Fs::new(tag, share(directory.path()), None, 1, &no_thread_start());
        assert!(matches!(made.err(), Some(FsError::Tag(length)) if length == tag.len()));
    }
}

#[test]
fn a_file_is_no_share() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let handle = std::fs::File::open(file.path()).unwrap().into();
    assert!(matches!(
        Share::new(handle, ShareOptions::default()),
        Err(ShareError::Root(rustix::io::Errno::NOTDIR))
    ));
}

#[test]
fn a_reset_forgets_nodes_and_open_files() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "text").unwrap();
    let mut client = Client::new(directory.path(), ShareOptions::default());
    let node = client.walk("a").node;
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    client.driver.reset(&mut client.device);
    assert_eq!(client.getattr(node).unwrap_err(), rustix::io::Errno::STALE);
    assert_eq!(client.read(handle, 0, 4).unwrap_err(), rustix::io::Errno::BADF);
    let node = client.walk("a").node;
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(handle, 0, 4).unwrap(), b"text");
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut client = Client::new(directory.path(), ShareOptions::default());
    let request =
        [&40u32.to_le_bytes()[..], &17u32.to_le_bytes(), &[0; 8], &1u64.to_le_bytes(), &[0; 16]].concat();
    let (from, to) = (client.driver.place(&request), client.driver.alloc(200));
    for _ in 0..20 {
        for _ in 0..250 {
            client.driver.add(1, &[(from, 40, false), (to, 200, true)]);
        }
        client.driver.kick(&mut client.device, 1).unwrap();
        let mut done = 0;
        while done < 250 {
            done += client.driver.used(1).iter().filter(|(_, length)| *length == 96).count();
            std::thread::yield_now();
        }
    }
}

/// A server that never ends a request before it is told to.
struct Slow(Mutex<std::sync::mpsc::Receiver<()>>);

impl Server for Slow {
    fn handle(&self, _: &Request<'_>) -> u32 {
        self.0.lock().unwrap().recv().map_or(0, |()| 0)
    }

    fn reset(&self) {}
}

#[test]
fn a_driver_cannot_have_more_requests_under_way_than_its_queue_is_long() {
    let (go, gate) = std::sync::mpsc::channel();
    let mut client = Client::with(Arc::new(Slow(Mutex::new(gate))));
    let place = client.driver.place(&[0; 40]);
    let mut offered = 0;
    // A queue of 64 whose descriptors are offered again and again.
    for _ in 0..10 {
        for _ in 0..32 {
            client.driver.add(0, &[(place, 40, false)]);
            offered += 1;
        }
        client.driver.kick(&mut client.device, 0).unwrap();
        let queue = client.device.active[0].as_ref().unwrap();
        assert!(queue.busy.load(Ordering::SeqCst) <= 64);
        if offered >= 64 {
            // Answer as many as were offered in this round: the rest is taken without a new kick from the driver.
            (0..32).for_each(|_| go.send(()).unwrap());
            let mut done = 0;
            while done < 32 {
                done += client.driver.used(0).len();
                client.driver.kick(&mut client.device, 0).unwrap();
            }
        }
    }
    drop(go);
}

#[test]
#[expect(unsafe_code, reason = "reserves a window")]
fn files_appear_in_the_window() {
    const SIZE: usize = 1 << 21;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), [5; 8192]).unwrap();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice, leaked for the window.
    let host = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_NONE, flags, -1, 0) }.cast::<u8>();
    // SAFETY: as above.
    let window = |host| Some(unsafe { Window::new(1 << 32, SIZE as u64, host) });
    let mut client =
        Client::new(directory.path(), ShareOptions { window: window(host), ..ShareOptions::default() });
    let node = client.walk("a").node;
    let map = |offset: u64, length: u64, flags: u64, place: u64| {
        [u64::MAX, offset, length, flags, place]
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    client.call(48, node, &map(4096, 4096, 3, 8192)).unwrap();
    // SAFETY: mapped just now.
    unsafe {
        assert_eq!(host.add(8192).read_volatile(), 5);
        host.add(8192).write_volatile(6);
    }
    assert_eq!(std::fs::read(directory.path().join("a")).unwrap()[4095..4097], [5, 6]);
    assert!(client.call(48, node, &map(0, 1 << 22, 1, 0)).is_err());
    assert!(client.call(48, node, &map(0, 4096, 1, SIZE as u64)).is_err());
    assert!(client.call(48, 1, &map(0, 4096, 1, 0)).is_err(), "a directory");
    let unmap: Vec<u8> = [1, 0, 0, 0, 0, 0, 0, 0]
        .into_iter()
        .chain([8192u64, 4096].iter().flat_map(|f| f.to_le_bytes()))
        .collect();
    // count is a u32 with nothing behind it.
    client.call(49, 0, &[&unmap[..4], &unmap[8..]].concat()).unwrap();
    let probe = tempfile::tempfile().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&probe);
    // SAFETY: the kernel checks the address.
    assert_eq!(unsafe { libc::write(fd, host.add(8192).cast(), 1) }, -1);

    let readonly = ShareOptions { window: window(host), readonly: true, ..ShareOptions::default() };
    let mut client = Client::new(directory.path(), readonly);
    let node = client.walk("a").node;
    assert_eq!(client.call(48, node, &map(0, 4096, 3, 0)).unwrap_err(), rustix::io::Errno::ROFS);
    client.call(48, node, &map(0, 4096, 2, 0)).unwrap();
    client.driver.reset(&mut client.device);
    // SAFETY: the kernel checks the address.
    assert_eq!(unsafe { libc::write(fd, host.cast(), 1) }, -1, "a reset leaves nothing mapped");
}
