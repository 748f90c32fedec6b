//! What the control socket can do to a running machine.

use super::devices::{self, OpenDevice, Workshop};
use super::hotplug::opened;
use super::hotplug::slots::Slots;
use super::memory_use;
use super::plugs::Plugs;
use crate::control::Commands;
use crate::control::answers::{Added, BalloonStats, MemorySize, State, Stats};
use crate::control::protocol::{Outcome, Request};
use crate::control::server::Server;
use crate::event_loop::{Controller, EventLoop};
use crate::vcpu::exit::ExitReason;
use crate::vcpu::gate::Gate;
use crate::virtio::balloon::control::BalloonControl;
use crate::virtio::mem::MemControl;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How long vCPUs may take to stop: longer than a device's reset, which one of them may be waiting for.
const PAUSE_LIMIT: Duration = Duration::from_secs(8);

/// How much RAM the guest has.
pub struct RamSize {
    /// Bytes that it starts with, and keeps.
    pub start: u64,
    /// What comes and goes, if any may.
    pub more: Option<MemControl>,
}

impl RamSize {
    /// Bytes, all of the RAM counted.
    fn now(&self) -> Option<MemorySize> {
        self.more.as_ref().map(|more| self.with(more))
    }

    fn with(&self, more: &MemControl) -> MemorySize {
        MemorySize {
            now: self.start + more.plugged(),
            wanted: self.start + more.requested(),
            max: self.start + more.size(),
        }
    }

    /// Asks the guest to have `wanted` bytes in all.
    fn set(&self, wanted: u64) -> Result<MemorySize, String> {
        let Some(more) = &self.more else {
            return Err("this machine keeps the memory it has; start it with --memory-max".to_string());
        };
        let extra = wanted.checked_sub(self.start).filter(|extra| *extra <= more.size());
        let extra = extra.ok_or_else(|| {
            let (least, most) = (self.start >> 20, (self.start + more.size()) >> 20);
            format!("{wanted} bytes are not within the {least} to {most} MiB that this machine may have")
        })?;
        more.request(extra);
        Ok(self.with(more))
    }
}

/// The machine, as far as it can be controlled.
pub struct Controlled {
    /// Stops the vCPUs.
    pub gate: Arc<Gate>,
    /// Its RAM.
    pub size: RamSize,
    /// The devices.
    pub plugs: Plugs,
    /// The balloon's control.
    pub balloon: Option<BalloonControl>,
    /// `/proc/self/smaps_rollup`.
    pub memory_use: Option<File>,
    /// Room for new devices.
    pub slots: Slots,
    /// Whether it is paused.
    pub paused: bool,
}

/// A machine and its control socket.
pub struct Control {
    /// The clients, if there is a socket.
    pub server: Option<Server>,
    /// The machine.
    pub machine: Controlled,
}

impl Controller for Control {
    fn ready(&mut self, events: &mut EventLoop, number: u16) -> Option<ExitReason> {
        self.server.as_mut()?.ready(events, &mut self.machine, number)
    }

    fn woken(&mut self, events: &mut EventLoop) -> Option<ExitReason> {
        self.server.as_mut()?.woken(events, &mut self.machine)
    }
}

impl Commands for Controlled {
    fn run(
        &mut self,
        events: &mut EventLoop,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> (Outcome, Option<ExitReason>) {
        let name = request.name();
        self.plugs.sweep(events);
        let result = match request {
            Request::Shutdown => return (Outcome::done(), Some(ExitReason::Shutdown)),
            Request::State => Ok(Outcome::ok(&self.state())),
            Request::Stats => self.stats().map(|stats| Outcome::ok(&stats)),
            Request::Pause => self.pause(events).map(|()| Outcome::done()),
            Request::Resume => {
                self.resume(events);
                Ok(Outcome::done())
            }
            Request::Memory(memory) => self.size.set(memory.size).map(|size| Outcome::ok(&size)),
            Request::Remove(remove) => {
                self.plugs.unplug(events, &remove.id, remove.force).map(|()| Outcome::done())
            }
            Request::AddDisk(_) | Request::AddPmem(_) | Request::AddShare(_) | Request::AddNet(_) => {
                self.add(events, request, files).map(|added| Outcome::ok(&added))
            }
        };
        (result.unwrap_or_else(|reason| Outcome::Error(format!("{name}: {reason}"))), None)
    }
}

impl Controlled {
    fn state(&self) -> State {
        State {
            state: if self.paused { "paused" } else { "running" }.to_string(),
            pid: std::process::id(),
            vcpus: self.gate.exits().len(),
            memory: self.size.start,
            memory_size: self.size.now(),
            devices: self.plugs.states(),
            slots: self.slots.free(),
        }
    }

    fn stats(&self) -> Result<Stats, String> {
        Ok(Stats {
            vcpu_exits: self.gate.exits(),
            memory: memory_use::read(self.memory_use.as_ref()).map_err(|e| e.to_string())?,
            balloon: self
                .balloon
                .as_ref()
                .map(|balloon| BalloonStats { taken: balloon.actual(), freed: balloon.freed() }),
            devices: self.plugs.stats(),
        })
    }

    /// Devices first: what vCPUs still do reaches them under their locks, and nothing new is served.
    fn pause(&mut self, events: &mut EventLoop) -> Result<(), String> {
        if self.paused {
            return Ok(());
        }
        events.set_paused(true);
        if let Err(error) = self.gate.close(PAUSE_LIMIT) {
            events.set_paused(false);
            return Err(format!("{error}; the machine runs on"));
        }
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self, events: &mut EventLoop) {
        if std::mem::take(&mut self.paused) {
            self.gate.open();
            events.set_paused(false);
        }
    }

    fn add(
        &mut self,
        events: &mut EventLoop,
        request: Request,
        files: Vec<OwnedFd>,
    ) -> Result<Added, String> {
        let id = request.id().unwrap_or_default().to_string();
        if self.plugs.has(&id) {
            return Err(format!("there is a device {id:?} already"));
        }
        let mut open = opened::open(request, files)?;
        let has_window = matches!(open, OpenDevice::Pmem { .. } | OpenDevice::Share { dax: 1.., .. });
        if has_window && self.plugs.pins_memory() {
            return Err(
                "the machine has a function of the host (vfio), so no memory can come or go".to_string()
            );
        }
        let (slot, threads) = self.slots.take(&mut open)?;
        let mut workshop = Workshop { windows: &mut self.plugs.windows, ram: Vec::new(), threads };
        let mut made = devices::make(open, &mut workshop).map_err(|e| e.to_string())?;
        made.slot = slot;
        let pci = self.plugs.plug(events, vec![made]).map_err(|e| e.to_string())?;
        Ok(Added { id, pci })
    }
}
