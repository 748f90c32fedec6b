//! A guest's FUSE client for tests: raw requests through the device's queue.

use crate::virtio::device::Device;
use crate::virtio::fs::share::{Share, ShareOptions};
use crate::virtio::fs::wire::{Body, IN_HEADER, OUT_HEADER, ROOT, init};
use crate::virtio::fs::{Fs, server::Server};
use crate::virtio::mock::Driver;
use crate::virtio::workers::no_thread_start;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROOM: usize = 256 << 10;

pub struct Client {
    pub device: Fs,
    pub driver: Driver,
    request: u64,
    answer: u64,
    unique: u64,
    pub uid: u32,
    pub gid: u32,
}

/// What a lookup, or a request that makes a name, tells.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub node: u64,
    pub inode: u64,
    pub size: u64,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub device: u32,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// `struct fuse_attr` at an offset.
fn attributes(bytes: &[u8], node: u64) -> Entry {
    Entry {
        node,
        inode: long(bytes, 0),
        size: long(bytes, 8),
        mode: word(bytes, 60),
        links: word(bytes, 64),
        uid: word(bytes, 68),
        gid: word(bytes, 72),
        device: word(bytes, 76),
    }
}

pub fn entry(bytes: &[u8]) -> Entry {
    attributes(&bytes[40..], long(bytes, 0))
}

pub fn open_directory(path: &Path) -> OwnedFd {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
}

impl Client {
    pub fn new(directory: &Path, options: ShareOptions) -> Self {
        let share = Arc::new(Share::new(open_directory(directory), options).unwrap());
        let mut client = Self::with(share);
        let all = init::ASYNC_READ
            | init::DONT_MASK
            | init::POSIX_ACL
            | init::SETXATTR_EXT
            | init::HANDLE_KILLPRIV_V2;
        let body = Body::default().u32(7).u32(40).u32(1 << 17).u32(all as u32 | 1 << 30).zeros(48);
        let answer = client.call(26, 0, &body.0).unwrap();
        assert_eq!((answer.len(), word(&answer, 0), word(&answer, 20)), (64, 7, 1 << 20));
        assert_eq!(word(&answer, 12) & !(all as u32 | 1 << 30), 0, "nothing that the guest does not know");
        client
    }

    pub fn with(server: Arc<dyn Server>) -> Self {
        let mut device = Fs::new("share", server, None, 2, &no_thread_start()).unwrap();
        let mut driver = Driver::new(&mut device, u64::MAX);
        let (request, answer) = (driver.alloc(ROOM as u64), driver.alloc(ROOM as u64));
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { device, driver, request, answer, unique: 0, uid, gid }
    }

    /// The host takes the directory away.
    pub fn withdraw(&mut self) {
        self.device.withdraw().unwrap();
    }

    /// Any bytes as a request, with any room for the answer. Gives what was written.
    pub fn raw(&mut self, queue: usize, request: &[u8], room: u32) -> Vec<u8> {
        self.driver.write(self.request, request);
        let half = request.len() as u32 / 2;
        let mut chain = vec![
            (self.request, half, false),
            (self.request + u64::from(half), request.len() as u32 - half, false),
        ];
        if room > 0 {
            chain.push((self.answer, room.min(7), true));
            chain.push((self.answer + 7, room.saturating_sub(7), true));
        }
        self.driver.add(queue, &chain);
        self.driver.kick(&mut self.device, queue).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some((_, length)) = self.driver.used(queue).pop() {
                assert!(length <= room);
                return self.driver.read(self.answer, length as usize);
            }
            assert!(Instant::now() < patience, "no answer");
            std::thread::yield_now();
        }
    }

    /// A request of the protocol; the answer's body or its error.
    pub fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.unique += 1;
        let header =
            Body::default().u32((IN_HEADER + body.len()) as u32).u32(opcode).u64(self.unique).u64(node);
        let mut request = header.u32(self.uid).u32(self.gid).u32(1).zeros(4).0;
        request.extend(body);
        let answer = self.raw(1, &request, ROOM as u32);
        assert_eq!((word(&answer, 0) as usize, long(&answer, 8)), (answer.len(), self.unique));
        match word(&answer, 4) as i32 {
            0 => Ok(answer[OUT_HEADER..].to_vec()),
            error => Err(Errno::from_raw_os_error(-error)),
        }
    }

    /// A request whose answer nobody waits for.
    pub fn silent(&mut self, opcode: u32, node: u64, body: &[u8]) {
        let header =
            Body::default().u32((IN_HEADER + body.len()) as u32).u32(opcode).u64(0).u64(node).zeros(16);
        let answer = self.raw(0, &[&header.0, body].concat(), 0);
        assert!(answer.is_empty());
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        self.call(1, parent, &text(name)).map(|bytes| entry(&bytes))
    }

    /// Follows names from the root on.
    pub fn walk(&mut self, path: &str) -> Entry {
        let mut at = Entry { node: ROOT, inode: 0, size: 0, mode: 0, links: 0, uid: 0, gid: 0, device: 0 };
        for name in path.split('/') {
            at = self.lookup(at.node, name).unwrap();
        }
        at
    }

    pub fn getattr(&mut self, node: u64) -> Result<Entry, Errno> {
        self.call(3, node, &[0; 16]).map(|bytes| attributes(&bytes[16..], node))
    }

    /// `valid`, and then size, mode, uid, gid.
    pub fn setattr(
        &mut self,
        node: u64,
        valid: u32,
        size: u64,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<Entry, Errno> {
        let body = Body::default().u32(valid).zeros(12).u64(size).zeros(8).u64(1000).u64(2000).zeros(8);
        let body = body.u32(5).u32(6).u32(0).u32(mode).u32(0).u32(owner.0).u32(owner.1).u32(0);
        self.call(4, node, &body.0).map(|bytes| attributes(&bytes[16..], node))
    }

    pub fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Result<Entry, Errno> {
        let body = Body::default().u32(mode).u32(0o022);
        self.call(9, parent, &[body.0, text(name)].concat()).map(|bytes| entry(&bytes))
    }

    pub fn mknod(&mut self, parent: u64, name: &str, mode: u32, device: u32) -> Result<Entry, Errno> {
        let body = Body::default().u32(mode).u32(device).u32(0o022).u32(0);
        self.call(8, parent, &[body.0, text(name)].concat()).map(|bytes| entry(&bytes))
    }

    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<Entry, Errno> {
        self.call(6, parent, &[text(name), text(target)].concat()).map(|bytes| entry(&bytes))
    }

    pub fn link(&mut self, node: u64, parent: u64, name: &str) -> Result<Entry, Errno> {
        self.call(13, parent, &[Body::default().u64(node).0, text(name)].concat()).map(|bytes| entry(&bytes))
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), Errno> {
        let body = Body::default().u64(to.0).u32(flags).u32(0);
        self.call(45, from.0, &[body.0, text(from.1), text(to.1)].concat()).map(drop)
    }

    /// Creates and opens; the entry and the handle.
    pub fn create(&mut self, parent: u64, name: &str, flags: i32, mode: u32) -> Result<(Entry, u64), Errno> {
        let body = Body::default().u32(flags as u32).u32(mode).u32(0o022).u32(0);
        let bytes = self.call(35, parent, &[body.0, text(name)].concat())?;
        Ok((entry(&bytes), long(&bytes, 128)))
    }

    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, Errno> {
        self.call(14, node, &Body::default().u32(flags as u32).u32(0).0).map(|bytes| long(&bytes, 0))
    }

    pub fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let body = Body::default().u64(handle).u64(offset).u32(size).zeros(20);
        self.call(15, 0, &body.0)
    }

    pub fn write(&mut self, handle: u64, offset: u64, data: &[u8], flags: u32) -> Result<u32, Errno> {
        let body = Body::default().u64(handle).u64(offset).u32(data.len() as u32).u32(flags).zeros(16);
        self.call(16, 0, &[&body.0, data].concat()).map(|bytes| word(&bytes, 0))
    }

    /// The names in a directory, with the nodes that READDIRPLUS tells.
    pub fn list(&mut self, node: u64, plus: bool) -> Vec<(String, u64)> {
        let handle = self.call(27, node, &[0; 8]).map(|bytes| long(&bytes, 0)).unwrap();
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let body = Body::default().u64(handle).u64(offset).u32(1024).zeros(20);
            let bytes = self.call(if plus { 44 } else { 28 }, node, &body.0).unwrap();
            if bytes.is_empty() {
                break;
            }
            let mut at = 0;
            while at < bytes.len() {
                let known = if plus { long(&bytes, at) } else { 0 };
                at += if plus { 128 } else { 0 };
                offset = long(&bytes, at + 8);
                let length = word(&bytes, at + 16) as usize;
                names.push((String::from_utf8(bytes[at + 24..at + 24 + length].to_vec()).unwrap(), known));
                at += (24 + length).next_multiple_of(8);
            }
        }
        self.call(29, node, &Body::default().u64(handle).zeros(16).0).unwrap();
        names.sort();
        names
    }
}

impl Drop for Client {
    /// Waits for the workers: the driver takes its memory away.
    fn drop(&mut self) {
        self.device.reset();
    }
}

pub fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}
