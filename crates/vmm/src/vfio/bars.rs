//! Pages of BARs in the guest's memory: KVM memory slots that follow the BARs, so that a register costs no exit.
#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes raw addresses; eventfds of vmm-sys-util are plain numbers"
)]

use super::config::MsixPlace;
use crate::memory::{ADDRESSABLE_END, PAGE};
use crate::pci::config::Bar;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// Gives host memory to the guest, and takes it away.
pub trait Slots: Send {
    /// Shows `size` bytes at our address `host` to the guest at `guest`; false when there is something else already.
    fn show(&self, slot: u32, guest: u64, host: u64, size: u64) -> bool;

    /// Takes it away. When this returns no vCPU reaches it.
    fn hide(&self, slot: u32);
}

/// KVM's.
#[derive(Debug)]
pub struct KvmSlots(pub Arc<VmFd>);

impl KvmSlots {
    fn set(&self, slot: u32, guest: u64, host: u64, size: u64) -> bool {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: guest,
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the range was mapped by `Device::map` and stays so as long as the process lives; with size 0 it is not looked at.
        unsafe { self.0.set_user_memory_region(region) }.is_ok()
    }
}

impl Slots for KvmSlots {
    fn show(&self, slot: u32, guest: u64, host: u64, size: u64) -> bool {
        self.set(slot, guest, host, size)
    }

    fn hide(&self, slot: u32) {
        // It fails for a slot that is not there only.
        self.set(slot, 0, 0, 0);
    }
}

/// Numbers of memory slots of functions begin here; RAM and windows are counted from 0 and are fewer.
const FIRST_SLOT: u32 = 4096;
/// Numbers of a function: each BAR is cut in at most three parts by table and pending bits.
const SLOTS: u32 = 32;

/// A part of a BAR that is mapped.
#[derive(Debug)]
struct Part {
    slot: u32,
    bar: usize,
    offset: u64,
    size: u64,
    /// Our address.
    host: u64,
    /// The guest's, while it is shown.
    shown: Option<u64>,
}

/// The mapped parts of a function.
pub struct Bars {
    slots: Box<dyn Slots>,
    parts: Vec<Part>,
}

impl Bars {
    /// Nothing is mapped.
    pub fn new(slots: Box<dyn Slots>) -> Self {
        Bars { slots, parts: Vec::new() }
    }

    /// Adds the part `range` of BAR `bar`, which is at our address `host`, for the function number `function`.
    pub fn add(&mut self, function: usize, bar: usize, range: &Range<u64>, host: u64) {
        let slot = FIRST_SLOT + function as u32 * SLOTS + self.parts.len() as u32;
        let (offset, size) = (range.start, range.end - range.start);
        self.parts.push(Part { slot, bar, offset, size, host, shown: None });
    }

    /// Shows the parts where their BARs are decoded now, and hides those whose are not. What cannot be shown, as there is RAM of the guest,
    /// is reached by traps or not at all.
    pub fn follow(&mut self, decoded: &[(usize, Bar)]) {
        let place = |part: &Part| {
            let (_, bar) = decoded.iter().find(|(index, _)| *index == part.bar)?;
            let end = bar.address.checked_add(bar.size)?;
            (bar.address > 0 && end <= ADDRESSABLE_END).then_some(bar.address + part.offset)
        };
        // First all away: two parts may change places.
        for part in &mut self.parts {
            if part.shown.is_some() && part.shown != place(part) {
                self.slots.hide(part.slot);
                part.shown = None;
            }
        }
        for part in &mut self.parts {
            if let (None, Some(guest)) = (part.shown, place(part)) {
                part.shown = Some(guest).filter(|_| self.slots.show(part.slot, guest, part.host, part.size));
            }
        }
    }
}

/// The parts of BAR `bar` of `size` bytes that may be mapped: whole pages without anything of MSI-X.
pub fn mappable(bar: usize, size: u64, msix: &MsixPlace) -> Vec<Range<u64>> {
    let mut parts: Vec<_> = Some(0..size).filter(|_| size >= PAGE).into_iter().collect();
    for (_, hole) in [&msix.table, &msix.pending].into_iter().filter(|(index, _)| *index == bar) {
        let hole = hole.start / PAGE * PAGE..hole.end.next_multiple_of(PAGE);
        let cut = |part: Range<u64>| {
            let (before, behind) = (part.start..part.end.min(hole.start), part.start.max(hole.end)..part.end);
            [before, behind].into_iter().filter(|rest| rest.start < rest.end)
        };
        parts = parts.into_iter().flat_map(cut).collect();
    }
    parts
}

/// The descriptor of an eventfd.
pub(super) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: it is open as long as the eventfd lives, which is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
