//! The two directions of a console's port.

use crate::virtio::device::{DeviceError, Watch};
use crate::virtio::guest_io::Iovecs;
use crate::virtio::ring::{BUDGET, Chain, Ring};
use rustix::event::epoll;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Most bytes of one system call.
const PIECE: usize = 64 << 10;

/// A file and whether epoll(7) takes it. Regular files and /dev/null cannot be watched, and are always ready.
struct Endpoint {
    file: File,
    watched: bool,
}

impl Endpoint {
    fn new(file: File) -> io::Result<Self> {
        let probe = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watched = match epoll::add(&probe, &file, epoll::EventData::new_u64(0), epoll::EventFlags::IN) {
            Ok(()) => true,
            Err(Errno::PERM) => false,
            Err(error) => return Err(error.into()),
        };
        if watched && !rustix::fs::fcntl_getfl(&file)?.contains(OFlags::NONBLOCK) {
            let reason =
                "while opening the console: its file would block the machine; open it with O_NONBLOCK";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(Self { file, watched })
    }
}

/// From the host to the guest.
pub struct Input {
    endpoint: Option<Endpoint>,
    room: Option<Chain>,
}

impl Input {
    /// Reads `file`.
    ///
    /// # Errors
    /// See [`super::Console::new`].
    pub fn new(file: Option<File>) -> io::Result<Self> {
        Ok(Self { endpoint: file.map(Endpoint::new).transpose()?, room: None })
    }

    /// Fills the guest's buffers with what is there.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn process(&mut self, ring: &mut Ring) -> Result<(), DeviceError> {
        let mut left = BUDGET;
        while let Some(endpoint) = self.endpoint.as_ref().filter(|_| left > 0) {
            let Some(chain) = self.room.take().map_or_else(|| ring.next(), |chain| Ok(Some(chain)))? else {
                if ring.rearm()? {
                    continue;
                }
                break;
            };
            left -= 1;
            let read = Iovecs::of(ring.memory(), &chain.writable).and_then(|mut iovecs| {
                iovecs.limit(PIECE);
                iovecs.read(endpoint.file.as_fd())
            });
            match read {
                // Nothing to fill: 0 bytes are not the end of the file.
                Ok(bytes) if bytes > 0 || chain.writable.is_empty() => {
                    ring.complete(chain.head, bytes as u32)?
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.room = Some(chain);
                    break;
                }
                // The buffer is one that the kernel cannot write, not the file's fault.
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => ring.complete(chain.head, 0)?,
                Ok(_) | Err(_) => self.endpoint = None,
            }
        }
        if left == 0 {
            ring.kick_again();
        }
        ring.signal()
    }

    /// The file, while the guest has room for more.
    pub fn watch(&self, token: u64) -> Option<Watch> {
        let endpoint = self.endpoint.as_ref().filter(|endpoint| endpoint.watched && self.room.is_some())?;
        Some(Watch { fd: endpoint.file.as_raw_fd(), token, readable: true, writable: false })
    }

    /// Forgets the guest's buffers.
    pub fn reset(&mut self) {
        self.room = None;
    }
}

/// From the guest to the host.
pub struct Output {
    endpoint: Option<Endpoint>,
    waiting: Option<(Chain, usize)>,
    blocked: bool,
}

impl Output {
    /// Writes `file`.
    ///
    /// # Errors
    /// See [`super::Console::new`].
    pub fn new(file: Option<File>) -> io::Result<Self> {
        Ok(Self { endpoint: file.map(Endpoint::new).transpose()?, waiting: None, blocked: false })
    }

    /// Writes what the guest has, until the file is full.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn process(&mut self, ring: &mut Ring) -> Result<(), DeviceError> {
        let mut left = BUDGET;
        while left > 0 && !self.blocked {
            let next = self
                .waiting
                .take()
                .map_or_else(|| Ok(ring.next()?.map(|chain| (chain, 0))), |held| Ok(Some(held)))?;
            let Some((chain, done)) = next else {
                if ring.rearm()? {
                    continue;
                }
                break;
            };
            left -= 1;
            match self.write(ring, &chain, done) {
                Some(more) if more as u64 + (done as u64) < chain.readable.len() => {
                    self.waiting = Some((chain, done + more))
                }
                _ => ring.complete(chain.head, 0)?,
            }
        }
        if left == 0 {
            ring.kick_again();
        }
        ring.signal()
    }

    /// Writes a piece of `chain`; `None` when the rest of it goes nowhere.
    fn write(&mut self, ring: &Ring, chain: &Chain, done: usize) -> Option<usize> {
        let endpoint = self.endpoint.as_ref()?;
        let mut iovecs = Iovecs::of(ring.memory(), &chain.readable).ok()?;
        iovecs.advance(done);
        iovecs.limit(PIECE);
        if iovecs.is_empty() {
            return None;
        }
        match iovecs.write(endpoint.file.as_fd()) {
            Ok(0) => None,
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && endpoint.watched => {
                self.blocked = true;
                Some(0)
            }
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => None,
            Err(_) => {
                self.endpoint = None;
                None
            }
        }
    }

    /// Writes one byte past the queue.
    pub fn emergency(&mut self, byte: u8) {
        if let Some(endpoint) = &self.endpoint {
            let _ = rustix::io::write(&endpoint.file, &[byte]);
        }
    }

    /// The file, while it is full.
    pub fn watch(&self, token: u64) -> Option<Watch> {
        let endpoint = self.endpoint.as_ref().filter(|_| self.blocked)?;
        Some(Watch { fd: endpoint.file.as_raw_fd(), token, readable: false, writable: true })
    }

    /// The file has room again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Forgets the guest's buffers.
    pub fn reset(&mut self) {
        self.waiting = None;
        self.blocked = false;
    }
}
