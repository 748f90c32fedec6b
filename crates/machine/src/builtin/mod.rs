//! clear-vmm as the program behind a [`MachineSpec`].
//!
//! ```text
//!   MachineSpec ─► JSON in a memfd ───────┐
//!   agent channel, control, console, taps ┴─► donated descriptors ─► clear-vmm run --spec fd:N --agent fd:N --control fd:N --tap NAME=fd:N
//! ```

mod args;
mod control;

use crate::process::VmmProcess;
use crate::spawn::Rights;
use crate::{BootError, DonatedFds, ExitReason, LinkEndpoint, Machine, Pause, Vmm, process, spawn};
use machine_spec::{Device, MachineSpec};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A clear-vmm program.
#[derive(Debug, Clone)]
pub struct ClearVmm {
    program: PathBuf,
}

impl ClearVmm {
    /// Uses this program.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        ClearVmm { program: program.into() }
    }
}

impl Vmm for ClearVmm {
    fn name(&self) -> &'static str {
        "clear-vmm"
    }

    fn boot(&self, spec: &MachineSpec, fds: DonatedFds) -> Result<Box<dyn Machine>, BootError> {
        spec.validate()?;
        process::check_files(spec)?;
        let json = spec_file(spec).map_err(BootError::Channel)?;
        let (link, vmm_link) = process::socket_pair()?;
        let (control, vmm_control) = process::socket_pair()?;
        let console = spec.console.then(|| fds.console.as_fd());
        let taps = process::taps(spec, &fds)?;
        let numbers = args::FdNumbers {
            spec: json.as_raw_fd(),
            link: vmm_link.as_raw_fd(),
            control: vmm_control.as_raw_fd(),
            console: console.map(|console| console.as_raw_fd()),
            taps: taps.iter().map(|(name, tap)| (*name, process::raw(tap))).collect(),
        };
        let mut donated = vec![json.as_fd(), vmm_link.as_fd(), vmm_control.as_fd()];
        donated.extend(console);
        donated.extend(taps.iter().flat_map(|(_, tap)| *tap).map(OwnedFd::as_fd));
        let shares = spec.devices.iter().any(|d| matches!(d, Device::Share { .. }));
        let capabilities = spawn::JAIL_CAPABILITIES | if shares { spawn::SHARE_CAPABILITIES } else { 0 };
        let rights = Rights { capabilities, locked: process::locked_memory(spec) };
        let child = spawn::spawn(&self.program, &args::args(&numbers), &donated, fds.log.as_fd(), rights)
            .map_err(|source| BootError::Spawn { program: self.program.clone(), source })?;
        let process = VmmProcess::new(child)?;
        Ok(Box::new(ClearMachine { process, link: Some(link), control: control::Control::new(control) }))
    }
}

fn spec_file(spec: &MachineSpec) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("machine-spec", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec)?)?;
    file.rewind()?;
    Ok(file)
}

struct ClearMachine {
    process: VmmProcess,
    link: Option<OwnedFd>,
    control: control::Control,
}

impl Machine for ClearMachine {
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
        Some(&mut self.control)
    }
}
