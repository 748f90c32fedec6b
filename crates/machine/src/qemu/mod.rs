//! QEMU as the program behind a [`MachineSpec`], with hardware virtualization or by emulation.
//!
//! ```text
//!   args::args(spec, numbers of donated fds) ─► argv       pure, golden-tested
//!   Qemu::boot ─► qemu-system-*: agent channel, console and monitor are socket pairs, so no path exists for them
//! ```

pub mod args;
mod qmp;

use crate::{BootError, DonatedFds, ExitReason, LinkEndpoint, Machine, Pause, Vmm, spawn};
use machine_spec::{Device, MachineSpec};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;

/// A QEMU program for the guest's architecture.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
}

impl Qemu {
    /// Uses this program.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Qemu { program: program.into() }
    }
}

impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn boot(&self, spec: &MachineSpec, fds: DonatedFds) -> Result<Box<dyn Machine>, BootError> {
        spec.validate()?;
        check_files(spec)?;
        let (link, vmm_link) = socket_pair()?;
        let (monitor, vmm_monitor) = socket_pair()?;
        let numbers = args::FdNumbers {
            link: vmm_link.as_raw_fd(),
            monitor: vmm_monitor.as_raw_fd(),
            console: fds.console.as_raw_fd(),
        };
        let mut donated = vec![vmm_link.as_fd(), vmm_monitor.as_fd()];
        if spec.console {
            donated.push(fds.console.as_fd());
        }
        let shares = spec.devices.iter().any(|d| matches!(d, Device::Share { .. }));
        let child = spawn::spawn(&self.program, &args::args(spec, numbers), &donated, fds.log, shares)
            .map_err(|source| BootError::Spawn { program: self.program.clone(), source })?;
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| BootError::Channel(e.into()))?;
        Ok(Box::new(QemuMachine { child, pidfd, link: Some(link), monitor: qmp::Monitor::new(monitor) }))
    }
}

/// QEMU's own words about a missing file come late and name its options; find it first.
fn check_files(spec: &MachineSpec) -> Result<(), BootError> {
    let readable = |what, path: &Path| match File::open(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(BootError::File { what, path: path.to_path_buf(), source }),
    };
    readable("kernel", &spec.kernel.path)?;
    if let Some(path) = &spec.kernel.initramfs {
        readable("initramfs", path)?;
    }
    for device in &spec.devices {
        match device {
            Device::Block { path, .. } => readable("disk", path)?,
            Device::Pmem { path, .. } => readable("image", path)?,
            Device::Share { path, .. } => readable("shared directory", path)?,
            Device::AgentChannel { .. } => {}
        }
    }
    Ok(())
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), BootError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| BootError::Channel(e.into()))
}

struct QemuMachine {
    child: Child,
    pidfd: OwnedFd,
    link: Option<OwnedFd>,
    monitor: qmp::Monitor,
}

impl Machine for QemuMachine {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn take_link(&mut self) -> Option<LinkEndpoint> {
        self.link.take().map(LinkEndpoint::Channel)
    }

    fn wait(&mut self) -> ExitReason {
        match self.child.wait() {
            Ok(status) => match status.code() {
                Some(code) => ExitReason::Exited(code),
                None => ExitReason::Signaled(status.signal().unwrap_or(0)),
            },
            // Only ECHILD can happen: somebody else reaped it, so how it ended is not known.
            Err(_) => ExitReason::Signaled(0),
        }
    }

    fn kill(&mut self) {
        // Fails only when it has ended, which is what is wanted.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn pause(&mut self) -> Option<&mut dyn Pause> {
        Some(&mut self.monitor)
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}
