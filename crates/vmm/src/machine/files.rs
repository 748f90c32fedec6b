//! Opens and checks all files that a machine needs, before anything else exists.

use super::devices::{MEMORY_STEP, OpenDevice};
use super::kvm::{self, KvmError};
use super::memory_use;
use crate::boot;
use crate::control::socket::Socket;
use crate::control::socket::{self, BoundPath, SocketError};
use crate::memory::HUGE_PAGE;
use crate::memory::ram::RamOptions;
use crate::memory::window::Sharing;
use crate::vfio::container::Container;
use crate::vfio::{self, OpenFunction, VfioError};
use crate::virtio::fs::MAX_TAG;
use crate::virtio::net::tap;
use crate::virtio::rate_limit::PerSecond;
use crate::virtio::vsock::host::{AgentSocket, HostSide, Sockets};
use kvm_ioctls::Kvm;
use machine_spec::{Device, MachineSpec};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The first address that a guest may have (vsock(7)).
pub const GUEST_CID: u64 = 3;

/// A file that is missing or wrong.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened.
    #[error("opening the {what} {}: {source}", path.display())]
    Open {
        /// For example `kernel`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no kernel.
    #[error("{}: {source}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        source: boot::BootError,
    },
    /// More memory than there is.
    #[error("the machine wants {wanted} MiB of memory, the host has {host} MiB; give it less")]
    Memory {
        /// MiB.
        wanted: u64,
        /// MiB.
        host: u64,
    },
    /// An image that was cut.
    #[error("image {} has {length} bytes, it should have {size}: it is damaged or not the one that was meant", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Bytes that it should have.
        size: u64,
        /// Bytes that it has.
        length: u64,
    },
    /// An image that cannot be mapped with huge pages.
    #[error("image {} has {size} bytes; a pmem image has a multiple of 2 MiB: `truncate -s %2M FILE` makes it one", path.display())]
    Odd {
        /// The file.
        path: PathBuf,
        /// Bytes.
        size: u64,
    },
    /// A name that the guest could not mount.
    #[error("the tag of a share has 1 to {MAX_TAG} bytes, not {0:?}")]
    Tag(String),
    /// A window that does not fit huge pages.
    #[error("a DAX window of {0} bytes; its size is a multiple of 2 MiB")]
    Window(u64),
    /// A most that is no step above the least.
    #[error("memory of at most {max} MiB; give {ram} MiB, what the machine starts with, and a multiple of {step} MiB more", step = MEMORY_STEP >> 20)]
    Growth {
        /// MiB at the start.
        ram: u64,
        /// MiB at most.
        max: u64,
    },
    /// No such interface.
    #[error("there is no network interface {0:?}; make it with `ip tuntap add dev NAME mode tap vnet_hdr`")]
    NoTap(String),
    /// A socket that cannot be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// It cannot be used.
    #[error(transparent)]
    Tap(#[from] tap::TapError),
    /// A network device without its host end.
    #[error("the spec has a network device {0:?}; give its tap with `--tap {0}=fd:N`")]
    MissingTap(String),
    /// Another number of descriptors than the device has pairs of queues.
    #[error(
        "the spec's network device {name:?} has {queues} pairs of queues, and {given} descriptors of its tap were donated; give one for each with `--tap {name}=fd:N:M...`"
    )]
    Queues {
        /// The device.
        name: String,
        /// Its pairs.
        queues: u32,
        /// Descriptors.
        given: usize,
    },
    /// A tap without a device.
    #[error("a tap was donated for network device {0:?}, which the spec does not have")]
    StrayTap(String),
    /// An agent channel without its host end.
    #[error("the spec has a vsock device for an agent; give its host end with `--agent fd:N`")]
    NoAgent,
    /// No KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Functions of the host.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// Memory that functions of the host could not follow.
    #[error(
        "a function of the host (vfio) may reach all of the guest's memory at any time, so no memory can come or go: do without {0}"
    )]
    Pinned(&'static str),
    /// A device that this machine does not have.
    #[error("the spec has a {0}: clear-vmm has no such device")]
    Unknown(&'static str),
}

/// Where the console's bytes come from and go to.
#[derive(Debug)]
pub struct Console {
    /// Input, if any.
    pub input: Option<OwnedFd>,
    /// Output.
    pub output: File,
}

/// Everything that was opened.
pub struct Files {
    /// /dev/kvm.
    pub kvm: Kvm,
    /// The kernel.
    pub kernel: File,
    /// The initial RAM file system.
    pub initramfs: Option<File>,
    /// The console, when there is one.
    pub console: Option<Console>,
    /// The devices' files.
    pub devices: Vec<OpenDevice>,
    /// Functions of the host.
    pub functions: Functions,
    /// The signals that end the machine, see [`crate::event_loop::signals::block`].
    pub signals: OwnedFd,
    /// Where it can be controlled, if anywhere.
    pub control: Option<Socket>,
    /// What tells how much memory it uses.
    pub memory_use: Option<File>,
}

/// Functions of the host, and what they are to reach.
#[derive(Debug, Default)]
pub struct Functions {
    /// Where their memory is told; there when there are any.
    pub container: Option<Arc<Container>>,
    /// The functions.
    pub all: Vec<OpenFunction>,
}

impl Functions {
    fn open(&mut self, host: &str, slot: u8) -> Result<(), FileError> {
        let container = match &self.container {
            Some(container) => container.clone(),
            None => Arc::new(Container::open()?),
        };
        self.all.push(OpenFunction { device: vfio::device::Device::open(host, &container)?, slot });
        self.container = Some(container);
        Ok(())
    }

    /// Whether memory stays where it is.
    fn check(&self, devices: &[OpenDevice]) -> Result<(), FileError> {
        let moving = devices.iter().find_map(|device| match device {
            OpenDevice::Balloon => Some("--balloon"),
            OpenDevice::Mem { .. } => Some("--memory-max"),
            OpenDevice::Share { dax: 1.., .. } => Some("dax= of --share"),
            _ => None,
        });
        moving.filter(|_| self.container.is_some()).map_or(Ok(()), |what| Err(FileError::Pinned(what)))
    }
}

/// What somebody else has opened.
#[derive(Debug)]
pub struct Donated {
    /// The console, when there is one.
    pub console: Option<Console>,
    /// The host's end of the agent channel.
    pub agent: Option<OwnedFd>,
    /// The host's ends of the spec's network devices, by their names: a descriptor for each pair of queues.
    pub taps: BTreeMap<String, Vec<OwnedFd>>,
    /// Devices that the spec does not know of.
    pub devices: Vec<OpenDevice>,
    /// See [`crate::event_loop::signals::block`].
    pub signals: OwnedFd,
    /// Where the machine can be controlled, if anywhere.
    pub control: Option<Socket>,
}

/// Opens the files of `spec`.
///
/// # Errors
/// The first thing that is wrong.
pub fn open(spec: &MachineSpec, mut donated: Donated) -> Result<Files, FileError> {
    let host = host_memory_mib();
    if spec.memory_mib > host {
        return Err(FileError::Memory { wanted: spec.memory_mib, host });
    }
    let kernel = open_file("kernel", &spec.kernel.path)?;
    let initramfs = spec.kernel.initramfs.as_ref().map(|path| open_file("initramfs", path)).transpose()?;
    boot::check(&kernel, initramfs.as_ref(), spec.memory_mib << 20)
        .map_err(|source| FileError::Kernel { path: spec.kernel.path.clone(), source })?;
    let (mut devices, mut functions) = (Vec::new(), Functions::default());
    for device in &spec.devices {
        if let Device::Vfio { host, slot } = device {
            functions.open(host, *slot)?;
        } else {
            devices.push(open_device(device, &mut donated)?);
        }
    }
    if let Some((name, _)) = donated.taps.pop_first() {
        return Err(FileError::StrayTap(name));
    }
    devices.append(&mut donated.devices);
    functions.check(&devices)?;
    // Last, so that what the user got wrong is told first.
    let kvm = kvm::open()?;
    let Donated { console, signals, control, .. } = donated;
    let memory_use = control.as_ref().and_then(|_| memory_use::open());
    Ok(Files { kvm, kernel, initramfs, console, devices, functions, signals, control, memory_use })
}

fn open_device(device: &Device, donated: &mut Donated) -> Result<OpenDevice, FileError> {
    match device {
        Device::Block { serial, path, readonly } => disk(path, serial, *readonly, PerSecond::default()),
        Device::Pmem { path, size } => pmem(path, Some(*size), Sharing::ReadOnly),
        Device::Vsock { agent_port } => {
            let socket = donated.agent.take().ok_or(FileError::NoAgent)?;
            let agent = Some(AgentSocket { port: *agent_port, socket: Some(socket) });
            Ok(OpenDevice::Vsock { cid: GUEST_CID, host: HostSide { agent, sockets: None } })
        }
        Device::Vfio { .. } => Err(FileError::Unknown("function of the host in place of a file")),
        Device::AgentChannel { .. } => {
            Err(FileError::Unknown("virtio-serial port; its agent channel is a vsock device"))
        }
        Device::Share { tag, path, readonly } => share(path, tag, *readonly, 0),
        Device::Net { name, mac, queues } => {
            let taps = donated.taps.remove(name).ok_or_else(|| FileError::MissingTap(name.clone()))?;
            if taps.len() != *queues as usize {
                return Err(FileError::Queues { name: name.clone(), queues: *queues, given: taps.len() });
            }
            let taps: Vec<_> = taps.into_iter().map(File::from).collect();
            tap::prepare(&taps)?;
            let unlimited = PerSecond::default();
            Ok(OpenDevice::Net { taps, name: name.clone(), mac: *mac, rx: unlimited, tx: unlimited })
        }
    }
}

/// Opens a disk that may be asked for as much as `limits` says.
///
/// # Errors
/// When it cannot be opened as asked.
pub fn disk(path: &Path, serial: &str, readonly: bool, limits: PerSecond) -> Result<OpenDevice, FileError> {
    let file = open_with("disk", path, !readonly)?;
    Ok(OpenDevice::Block { file, serial: serial.to_string(), readonly, limits })
}

/// Opens an image for pmem; without `size`, all of it.
///
/// # Errors
/// When it cannot be opened, or is shorter than it should be.
pub fn pmem(path: &Path, size: Option<u64>, sharing: Sharing) -> Result<OpenDevice, FileError> {
    let file = open_with("image", path, sharing == Sharing::Shared)?;
    let failed = |source| FileError::Open { what: "image", path: path.to_path_buf(), source };
    let length = file.metadata().map_err(failed)?.len();
    let size = size.unwrap_or(length);
    if length < size {
        return Err(FileError::Short { path: path.to_path_buf(), size, length });
    }
    if size == 0 || !size.is_multiple_of(HUGE_PAGE) {
        return Err(FileError::Odd { path: path.to_path_buf(), size });
    }
    Ok(OpenDevice::Pmem { file, name: path.display().to_string(), size, sharing })
}

/// Opens a directory to share; `dax` bytes of window, a multiple of 2 MiB.
///
/// # Errors
/// When it is no directory, or the tag or the window cannot be.
pub fn share(path: &Path, tag: &str, readonly: bool, dax: u64) -> Result<OpenDevice, FileError> {
    if tag.is_empty() || tag.len() > MAX_TAG {
        return Err(FileError::Tag(tag.to_string()));
    }
    if !dax.is_multiple_of(HUGE_PAGE) {
        return Err(FileError::Window(dax));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| FileError::Open {
        what: "shared directory",
        path: path.to_path_buf(),
        source: errno.into(),
    })?;
    Ok(OpenDevice::Share { root, proc: None, tag: tag.to_string(), readonly, dax })
}

/// Memory that may come to the `ram` MiB of the start, up to `max` MiB in all.
///
/// # Errors
/// When that is no whole number of steps, or more than the host has.
pub fn memory(ram: u64, max: u64, options: RamOptions) -> Result<OpenDevice, FileError> {
    let host = host_memory_mib();
    if max > host {
        return Err(FileError::Memory { wanted: max, host });
    }
    let size = max.saturating_sub(ram) << 20;
    if size == 0 || !size.is_multiple_of(MEMORY_STEP) {
        return Err(FileError::Growth { ram, max });
    }
    // It comes when it is needed, that is why it was asked for.
    Ok(OpenDevice::Mem { size, options: RamOptions { prefault: false, ..options } })
}

/// Opens a tap, with a descriptor for each of `queues` pairs; `rx` may come from it, and `tx` may go out.
///
/// # Errors
/// When there is none of that name, or it is in use.
pub fn net(
    name: &str,
    mac: [u8; 6],
    queues: usize,
    rx: PerSecond,
    tx: PerSecond,
) -> Result<OpenDevice, FileError> {
    let path = Path::new("/dev/net/tun");
    if !Path::new("/sys/class/net").join(name).exists() {
        return Err(FileError::NoTap(name.to_string()));
    }
    let tuns = (0..queues).map(|_| open_with("tap driver", path, true)).collect::<Result<_, _>>()?;
    let taps = tap::attach(tuns, name)?;
    Ok(OpenDevice::Net { taps, name: name.to_string(), mac, rx, tx })
}

/// Binds the socket at which programs ask for connections to the guest.
///
/// # Errors
/// When it cannot be bound.
pub fn vsock(path: &Path, cid: u64) -> Result<(OpenDevice, BoundPath), FileError> {
    let failed = |source| FileError::Open { what: "vsock socket", path: path.to_path_buf(), source };
    let name = path.file_name().ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
    let (listener, bound) = socket::bind(path)?;
    let directory = bound.directory_again().map_err(failed)?;
    let sockets = Some(Sockets { directory, name: name.to_os_string(), listener: listener.into() });
    Ok((OpenDevice::Vsock { cid, host: HostSide { agent: None, sockets } }, bound))
}

/// Opens a regular file for reading: a kernel or an initramfs, whose length counts.
fn open_file(what: &'static str, path: &Path) -> Result<File, FileError> {
    let failed = |source| FileError::Open { what, path: path.to_path_buf(), source };
    let file = open_with(what, path, false)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("no regular file")));
    }
    Ok(file)
}

fn open_with(what: &'static str, path: &Path, write: bool) -> Result<File, FileError> {
    let failed = |source| FileError::Open { what, path: path.to_path_buf(), source };
    // A FIFO would otherwise wait for its other end. Regular files and block devices do not mind.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(file)
}

/// RAM of the host.
fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) >> 20
}
