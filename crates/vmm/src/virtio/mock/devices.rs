//! Every device, over files of a kind that tests can have: memory files, pipes, sockets and a directory.

use super::{RAM_SIZE, WINDOW, WINDOW_SIZE};
use crate::virtio::balloon::{Balloon, BalloonOptions, Ram};
use crate::virtio::block::{Block, BlockOptions};
use crate::virtio::console::Console;
use crate::virtio::device::Device;
use crate::virtio::fs::Fs;
use crate::virtio::fs::share::{Budget, Share, ShareOptions};
use crate::virtio::guest_io::Backing;
use crate::virtio::mem::Mem;
use crate::virtio::net::{Net, NetOptions};
use crate::virtio::pmem::{Flush, Pmem};
use crate::virtio::rate_limit::Limits;
use crate::virtio::rng::Rng;
use crate::virtio::vsock::Vsock;
use crate::virtio::vsock::host::{AgentSocket, HostSide};
use crate::virtio::workers::no_thread_start;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// A type of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`crate::virtio::balloon`]
    Balloon,
    /// [`crate::virtio::block`]
    Block,
    /// [`crate::virtio::console`]
    Console,
    /// [`crate::virtio::fs`]
    Fs,
    /// [`crate::virtio::mem`]
    Mem,
    /// [`crate::virtio::net`]
    Net,
    /// [`crate::virtio::pmem`]
    Pmem,
    /// [`crate::virtio::rng`]
    Rng,
    /// [`crate::virtio::vsock`]
    Vsock,
    /// [`crate::virtio::net`] with several pairs of queues.
    NetQueues,
}

/// All of them.
pub const KINDS: [Kind; 10] = [
    Kind::Balloon,
    Kind::Block,
    Kind::Console,
    Kind::Fs,
    Kind::Mem,
    Kind::Net,
    Kind::Pmem,
    Kind::Rng,
    Kind::Vsock,
    Kind::NetQueues,
];

/// Bytes of the disk.
pub const DISK_SIZE: u64 = 128 << 10;

/// RAM that the balloon takes back from the guest: the upper half of it.
pub const BALLOON_START: u64 = RAM_SIZE / 2;

/// Pairs of queues of [`Kind::NetQueues`].
pub const NET_PAIRS: usize = 3;

/// Most bytes of virtio-mem that the guest may plug.
const REQUESTED: u64 = WINDOW_SIZE / 2;

/// The port at which a guest of the vsock device finds the agent channel, whose host end the test has.
pub const AGENT_PORT: u32 = 9;

/// The host's end of a device's file: takes what came from the guest, and says these bytes.
pub type HostEnd = Box<dyn FnMut(&[u8])>;

/// A device and its other end.
pub struct Bench {
    /// The device.
    pub device: Box<dyn Device>,
    /// The host: takes whatever the guest sent, and says these bytes if there is a way to. Never waits.
    pub host: HostEnd,
}

/// A device of `kind`; one with a shared directory shares `directory`.
///
/// # Errors
/// When the host refuses a file or a thread.
pub fn bench(kind: Kind, directory: &Path) -> anyhow::Result<Bench> {
    let silent = |device: Box<dyn Device>| Bench { device, host: Box::new(|_| ()) };
    let threads = no_thread_start();
    Ok(match kind {
        Kind::Balloon => {
            let ram = vec![Ram { range: BALLOON_START..RAM_SIZE, backing: Backing::Private }];
            let (device, control) =
                Balloon::new(BalloonOptions { ram, reporting: true, deflate_on_oom: true })?;
            // What the host says is a target.
            let host = move |bytes: &[u8]| {
                control.set_target(bytes.iter().map(|byte| u64::from(*byte) << 12).sum());
                control.request_statistics();
            };
            Bench { device: Box::new(device), host: Box::new(host) }
        }
        Kind::Block => {
            let options = BlockOptions {
                serial: "disk".into(),
                readonly: false,
                limits: Limits::default(),
                threads: 1,
            };
            silent(Box::new(Block::new(memory_file(DISK_SIZE)?, &options, &threads)?))
        }
        Kind::Console => {
            let (near, far) = sockets()?;
            let device = Console::new(Some(near.try_clone()?), Some(near), Some((80, 25)))?;
            Bench { device: Box::new(device), host: stream(far) }
        }
        Kind::Fs => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(directory, flags, Mode::empty())?;
            let share = Share::new(
                root,
                ShareOptions { budget: Some(Budget { nodes: 12, files: 4 }), ..ShareOptions::default() },
            )?;
            silent(Box::new(Fs::new("share", Arc::new(share), None, 1, &threads)?))
        }
        Kind::Mem => {
            let (device, control) = Mem::new(WINDOW..WINDOW + WINDOW_SIZE, 64 << 10, Backing::Private)?;
            control.request(REQUESTED);
            let host = move |_: &[u8]| {
                control.request(REQUESTED);
            };
            Bench { device: Box::new(device), host: Box::new(host) }
        }
        Kind::Net => {
            let (tap, mut wire) = datagrams()?;
            let options =
                NetOptions { name: "eth0".into(), mac: [2, 0, 0, 0, 0, 1], ..NetOptions::default() };
            let mut device = Net::new(vec![tap], &options)?;
            device.set_offload = |_, _| Ok(());
            Bench { device: Box::new(device), host: Box::new(move |bytes| wire(bytes)) }
        }
        Kind::NetQueues => {
            let ends = (0..NET_PAIRS).map(|_| datagrams()).collect::<anyhow::Result<Vec<_>>>()?;
            let (taps, mut wires): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
            let options =
                NetOptions { name: "eth0".into(), mac: [2, 0, 0, 0, 0, 1], ..NetOptions::default() };
            let mut device = Net::new(taps, &options)?;
            device.set_offload = |_, _| Ok(());
            device.set_queue = |_, _| Ok(());
            Bench {
                device: Box::new(device),
                host: Box::new(move |bytes| wires.iter_mut().for_each(|wire| wire(bytes))),
            }
        }
        Kind::Pmem => {
            let flush = Flush::File(memory_file(4096)?);
            silent(Box::new(Pmem::new("image", 1 << 40, 2 << 20, flush, &threads)?))
        }
        Kind::Rng => silent(Box::new(Rng::new(Limits::default())?)),
        Kind::Vsock => {
            let (near, far) = sockets()?;
            let agent = Some(AgentSocket { port: AGENT_PORT, socket: Some(near.into()) });
            let device = Vsock::new(3, HostSide { agent, sockets: None })?;
            Bench { device: Box::new(device), host: stream(far) }
        }
    })
}

fn memory_file(size: u64) -> anyhow::Result<File> {
    let file = File::from(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC)?);
    file.set_len(size)?;
    Ok(file)
}

/// Two ends of a stream that do not block.
fn sockets() -> anyhow::Result<(File, File)> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    Ok((File::from(OwnedFd::from(near)), File::from(OwnedFd::from(far))))
}

/// A socket that keeps packets apart as a tap does, and its other end.
fn datagrams() -> anyhow::Result<(File, HostEnd)> {
    let (tap, wire) = UnixDatagram::pair()?;
    tap.set_nonblocking(true)?;
    wire.set_nonblocking(true)?;
    let host = move |bytes: &[u8]| {
        while wire.recv(&mut [0; 16]).is_ok() {}
        let _ = wire.send(bytes);
    };
    Ok((File::from(OwnedFd::from(tap)), Box::new(host)))
}

fn stream(mut far: File) -> HostEnd {
    Box::new(move |bytes| {
        while far.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        let _ = far.write(bytes);
    })
}
