//! What the backends share: a VMM as a child process, and what is looked at before one is started.

use crate::{BootError, DonatedFds, ExitReason};
use machine_spec::{Device, MachineSpec};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;

/// A VMM's process. It is killed and reaped when this is dropped.
pub struct VmmProcess {
    child: Child,
    pidfd: OwnedFd,
}

impl VmmProcess {
    /// Watches over a child.
    ///
    /// # Errors
    /// When there is no descriptor left for it.
    pub fn new(mut child: Child) -> Result<Self, BootError> {
        match pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(VmmProcess { child, pidfd }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(BootError::Channel(e.into()))
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Becomes readable when it has ended.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitReason {
        match self.child.wait() {
            Ok(status) => match status.code() {
                Some(code) => ExitReason::Exited(code),
                None => ExitReason::Signaled(status.signal().unwrap_or(0)),
            },
            // Only ECHILD can happen: somebody else reaped it, so how it ended is not known.
            Err(_) => ExitReason::Signaled(0),
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Fails only when it has ended, which is what is wanted.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// A VMM's own words about a missing file come late and name its options; find it first.
///
/// # Errors
/// The first file that cannot be opened.
pub fn check_files(spec: &MachineSpec) -> Result<(), BootError> {
    let opens = |what, path: &Path, write| match File::options().read(true).write(write).open(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(BootError::File { what, path: path.to_path_buf(), source }),
    };
    let readable = |what, path: &Path| opens(what, path, false);
    readable("kernel", &spec.kernel.path)?;
    if let Some(path) = &spec.kernel.initramfs {
        readable("initramfs", path)?;
    }
    for device in &spec.devices {
        match device {
            Device::Block { path, readonly, .. } => opens("disk", path, !readonly)?,
            Device::Pmem { path, .. } => readable("image", path)?,
            Device::Share { path, .. } => readable("shared directory", path)?,
            Device::Vfio { host, .. } => opens("PCI function", &vfio_group(host)?, true)?,
            Device::AgentChannel { .. } | Device::Vsock { .. } | Device::Net { .. } => {}
        }
    }
    Ok(())
}

/// The file of a function's IOMMU group.
fn vfio_group(host: &str) -> Result<PathBuf, BootError> {
    let link = Path::new("/sys/bus/pci/devices").join(host).join("iommu_group");
    let group =
        link.read_link().map_err(|source| BootError::File { what: "IOMMU group", path: link, source })?;
    Ok(Path::new("/dev/vfio").join(group.file_name().unwrap_or_default()))
}

/// What a VMM needs besides RAM and images that functions of the host can reach: a board's firmware and frame buffers.
const LOCKED_BESIDES: u64 = 64 << 20;

/// Bytes that a VMM has to lock: functions of the host may reach all of the guest's memory at any time. `None` without such functions.
pub fn locked_memory(spec: &MachineSpec) -> Option<u64> {
    let images = spec.devices.iter().filter_map(|device| match device {
        Device::Pmem { size, .. } => Some(*size),
        _ => None,
    });
    let passes = spec.devices.iter().any(|device| matches!(device, Device::Vfio { .. }));
    passes.then(|| (spec.memory_mib << 20).saturating_add(images.sum()).saturating_add(LOCKED_BESIDES))
}

/// Those paths of the spec's disks that are block devices.
pub fn host_devices(spec: &MachineSpec) -> Vec<&Path> {
    let disks = spec.devices.iter().filter_map(|device| match device {
        Device::Block { path, .. } => Some(path.as_path()),
        _ => None,
    });
    disks.filter(|path| path.metadata().is_ok_and(|found| found.file_type().is_block_device())).collect()
}

/// The donated taps of the spec's network devices, by their names, in the spec's order: a descriptor for each pair of queues.
///
/// # Errors
/// The first device without one, or with another number of them.
pub fn taps<'a>(
    spec: &'a MachineSpec,
    fds: &'a DonatedFds,
) -> Result<Vec<(&'a str, &'a [OwnedFd])>, BootError> {
    let nets = spec.devices.iter().filter_map(|device| match device {
        Device::Net { name, queues, .. } => Some((name, *queues)),
        _ => None,
    });
    let tap = |(name, queues): (&'a String, u32)| match fds.taps.get(name) {
        Some(tap) if tap.len() == queues as usize => Ok((name.as_str(), tap.as_slice())),
        Some(tap) => Err(BootError::Queues { name: name.clone(), queues, given: tap.len() }),
        None => Err(BootError::NoTap(name.clone())),
    };
    nets.map(tap).collect()
}

/// The numbers of descriptors.
pub fn raw(fds: &[OwnedFd]) -> Vec<i32> {
    fds.iter().map(AsRawFd::as_raw_fd).collect()
}

/// The numbers of descriptors with colons between them, as both VMMs are told those of a tap.
pub fn numbers(fds: &[i32]) -> String {
    fds.iter().map(i32::to_string).collect::<Vec<_>>().join(":")
}

/// Two connected stream sockets: the launcher's end and the VMM's.
///
/// # Errors
/// When there are no descriptors left.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd), BootError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| BootError::Channel(e.into()))
}
