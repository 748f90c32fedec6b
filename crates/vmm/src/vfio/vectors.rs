//! MSI-X of a function: the table is ours, and says to which of KVM's interrupts the device's eventfds lead.
//!
//! ```text
//!   device ─► VFIO: eventfd of the vector ─┬─ vector open: irqfd ─► KVM route ─► the guest's CPU, without us
//!                                          └─ vector masked: it waits in the eventfd, which is the pending bit
//! ```

use super::Hardware;
use super::config::{ENTRY, MAX_VECTORS};
use crate::bus::lock;
use crate::legacy::ioapic;
use crate::pci::msix::{ENABLED, FUNCTION_MASK};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// Vector control: masked.
const MASKED: u32 = 1;

/// Where and what an interrupt is.
pub type Message = (u64, u32);

/// Interrupts that come by eventfds.
pub trait Lines: Send + Sync {
    /// From now on `event` is interrupt `line`, which is `message`; also if it was signalled before.
    ///
    /// # Errors
    /// When KVM refuses.
    fn open(&self, line: u32, message: Message, event: &EventFd) -> io::Result<()>;

    /// From now on signals wait in `event`.
    fn close(&self, line: u32, event: &EventFd);
}

/// First line: those below are the IOAPIC's.
const FIRST_LINE: u32 = ioapic::PINS as u32;

/// KVM's irqfds and routes.
#[derive(Debug)]
pub struct KvmLines {
    vm: Arc<VmFd>,
    routes: Mutex<BTreeMap<u32, Message>>,
}

impl KvmLines {
    /// No routes.
    pub fn new(vm: Arc<VmFd>) -> Self {
        KvmLines { vm, routes: Mutex::default() }
    }
}

#[expect(unsafe_code, reason = "a union of KVM's interface is all zeros")]
fn route(line: u32, (address, data): Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi: line, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let mut msi = kvm_irq_routing_msi { data, ..Default::default() };
    (msi.address_lo, msi.address_hi) = (address as u32, (address >> 32) as u32);
    // SAFETY: plain numbers, for which zeros are values.
    entry.u = unsafe { std::mem::zeroed::<kvm_irq_routing_entry__bindgen_ty_1>() };
    entry.u.msi = msi;
    entry
}

impl Lines for KvmLines {
    fn open(&self, line: u32, message: Message, event: &EventFd) -> io::Result<()> {
        lead(&mut lock(&self.routes), line, message, |routes| {
            let entries: Vec<_> = routes.iter().map(|(line, message)| route(*line, *message)).collect();
            let all =
                KvmIrqRouting::from_entries(&entries).map_err(|_| io::Error::other("too many routes"))?;
            Ok(self.vm.set_gsi_routing(&all)?)
        })?;
        Ok(self.vm.register_irqfd(event, line)?)
    }

    fn close(&self, line: u32, event: &EventFd) {
        // It fails for one that is not there only.
        let _ = self.vm.unregister_irqfd(event, line);
    }
}

/// Makes `line` the interrupt `message` by `set`, which takes all routes at once. One that KVM refuses is not among those of the next call.
pub(super) fn lead(
    routes: &mut BTreeMap<u32, Message>,
    line: u32,
    message: Message,
    set: impl FnOnce(&BTreeMap<u32, Message>) -> io::Result<()>,
) -> io::Result<()> {
    let before = routes.insert(line, message);
    // Setting routes waits for others to be done with the old ones: only when something changes.
    if before == Some(message) {
        return Ok(());
    }
    set(routes).inspect_err(|_| {
        match before {
            Some(before) => routes.insert(line, before),
            None => routes.remove(&line),
        };
    })
}

/// The vectors of a function.
pub struct Vectors {
    lines: Arc<dyn Lines>,
    first: u32,
    events: Vec<EventFd>,
    entries: Vec<[u32; 4]>,
    /// With which message each vector is open.
    open: Vec<Option<Message>>,
    enabled: bool,
    masked: bool,
}

impl Vectors {
    /// `count` vectors, all masked, of the function number `function` of the machine.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(count: usize, function: usize, lines: Arc<dyn Lines>) -> io::Result<Self> {
        let event = |_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let events = (0..count).map(event).collect::<io::Result<Vec<_>>>()?;
        let entries = vec![[0, 0, 0, MASKED]; count];
        let (first, open) = (FIRST_LINE + (function * MAX_VECTORS) as u32, vec![None; count]);
        Ok(Vectors { lines, first, events, entries, open, enabled: false, masked: false })
    }

    /// The guest has written the high byte of message control.
    ///
    /// # Errors
    /// When the host has no interrupts for the device; then it has none.
    pub fn control(&mut self, hardware: &dyn Hardware, high: u8) -> io::Result<()> {
        let enabled = high & ENABLED != 0;
        let mut result = Ok(());
        if enabled != self.enabled {
            if enabled {
                result = hardware.connect(&self.events);
            } else {
                hardware.disconnect();
            }
        }
        (self.enabled, self.masked) = (enabled, high & FUNCTION_MASK != 0);
        for vector in 0..self.entries.len() {
            result = result.and(self.apply(vector));
            if !enabled {
                // What waited is not for the next driver.
                let _ = self.events[vector].read();
            }
        }
        result
    }

    /// Opens or closes a vector as the table says now.
    fn apply(&mut self, vector: usize) -> io::Result<()> {
        let [low, high, data, control] = self.entries[vector];
        let wanted = (self.enabled && !self.masked && control & MASKED == 0)
            .then_some((u64::from(high) << 32 | u64::from(low), data));
        if wanted == self.open[vector] {
            return Ok(());
        }
        let line = self.first + vector as u32;
        if self.open[vector].take().is_some() {
            self.lines.close(line, &self.events[vector]);
        }
        if let Some(message) = wanted {
            self.lines.open(line, message, &self.events[vector])?;
            self.open[vector] = wanted;
        }
        Ok(())
    }

    /// Reads the table; `offset` is from its start. Only aligned double and quad words are defined; others read ones, and entries that
    /// the guest does not have zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if !is_defined(offset, data.len()) {
            return;
        }
        for (index, bytes) in data.chunks_exact_mut(4).enumerate() {
            let at = offset + 4 * index as u64;
            let entry = usize::try_from(at / ENTRY).ok().and_then(|entry| self.entries.get(entry));
            bytes.copy_from_slice(&entry.map_or(0, |entry| entry[(at % ENTRY / 4) as usize]).to_le_bytes());
        }
    }

    /// Writes the table. Other accesses than aligned double and quad words are ignored.
    ///
    /// # Errors
    /// When KVM refuses the interrupt.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !is_defined(offset, data.len()) {
            return Ok(());
        }
        let Some(vector) = usize::try_from(offset / ENTRY).ok().filter(|vector| *vector < self.entries.len())
        else {
            return Ok(());
        };
        // At most eight bytes at a multiple of their number: they are of one entry.
        for (index, bytes) in data.chunks_exact(4).enumerate() {
            if let Ok(bytes) = bytes.try_into() {
                self.entries[vector][(offset % ENTRY / 4) as usize + index] = u32::from_le_bytes(bytes);
            }
        }
        self.apply(vector)
    }

    /// Reads pending bits; `offset` is from their start.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            let first = (offset as usize).saturating_add(index).saturating_mul(8);
            let bit = |bit: usize| u8::from(self.is_pending(first.saturating_add(bit))) << bit;
            *byte = (0..8).map(bit).sum();
        }
    }

    /// What the device does when it interrupts.
    #[cfg(test)]
    pub(super) fn signal_for_test(&self, vector: usize) {
        self.events[vector].write(1).unwrap();
    }

    fn is_pending(&self, vector: usize) -> bool {
        let Some(event) = self.events.get(vector).filter(|_| self.open[vector].is_none()) else {
            return false;
        };
        let fd = super::bars::borrow(event);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)) == Ok(1)
    }
}

fn is_defined(offset: u64, length: usize) -> bool {
    matches!(length, 4 | 8) && offset.is_multiple_of(length as u64)
}
