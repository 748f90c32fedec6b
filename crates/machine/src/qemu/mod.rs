//! QEMU as the program behind a [`MachineSpec`], with hardware virtualization or by emulation.
//!
//! ```text
//!   args::args(spec, numbers of donated fds) ─► argv       pure, golden-tested
//!   Qemu::boot ─► qemu-system-*: agent channel, console and monitor are socket pairs, so no path exists for them
//! ```

pub mod args;
mod qmp;

use crate::process::VmmProcess;
use crate::spawn::Rights;
use crate::{BootError, DonatedFds, ExitReason, LinkEndpoint, Machine, Pause, Vmm, process, spawn};
use machine_spec::{Chassis, Device, MachineSpec};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

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
        only_its_devices(spec)?;
        process::check_files(spec)?;
        let (link, vmm_link) = process::socket_pair()?;
        let (monitor, vmm_monitor) = process::socket_pair()?;
        let taps = process::taps(spec, &fds)?;
        let tap_numbers: Vec<_> = taps.iter().map(|(name, tap)| (*name, process::raw(tap))).collect();
        let host_devices = process::host_devices(spec);
        let given = args::Given {
            link: vmm_link.as_raw_fd(),
            monitor: vmm_monitor.as_raw_fd(),
            console: fds.console.as_raw_fd(),
            taps: &tap_numbers,
            host_devices: &host_devices,
        };
        let args = args::args(spec, given);
        let mut donated = vec![vmm_link.as_fd(), vmm_monitor.as_fd()];
        donated.extend(taps.iter().flat_map(|(_, tap)| *tap).map(OwnedFd::as_fd));
        if spec.console {
            donated.push(fds.console.as_fd());
        }
        let shares = spec.devices.iter().any(|d| matches!(d, Device::Share { .. }));
        let capabilities = if shares { spawn::SHARE_CAPABILITIES } else { 0 };
        let rights = Rights { capabilities, locked: process::locked_memory(spec) };
        let child = spawn::spawn(&self.program, &args, &donated, fds.log.as_fd(), rights)
            .map_err(|source| BootError::Spawn { program: self.program.clone(), source })?;
        let process = VmmProcess::new(child)?;
        Ok(Box::new(QemuMachine { process, link: Some(link), monitor: qmp::Monitor::new(monitor) }))
    }
}

fn only_its_devices(spec: &MachineSpec) -> Result<(), BootError> {
    if spec.chassis == Chassis::Clear {
        return Err(BootError::Unsupported { vmm: "qemu", what: "chassis clear" });
    }
    if spec.devices.iter().any(|device| matches!(device, Device::Vsock { .. })) {
        return Err(BootError::Unsupported { vmm: "qemu", what: "a vsock device" });
    }
    Ok(())
}

struct QemuMachine {
    process: VmmProcess,
    link: Option<OwnedFd>,
    monitor: qmp::Monitor,
}

impl Machine for QemuMachine {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process.exit_fd()
    }

    fn take_link(&mut self) -> Option<LinkEndpoint> {
        self.link.take().map(LinkEndpoint::Channel)
    }

    fn wait(&mut self) -> ExitReason {
        self.process.wait()
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn pause(&mut self) -> Option<&mut dyn Pause> {
        Some(&mut self.monitor)
    }
}
