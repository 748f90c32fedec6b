//! Where a vCPU's port I/O and MMIO go.
//!
//! ```text
//!   port 0x3F8-0x3FF  UART          only when a console is asked for; else nobody
//!   port 0x60, 0x64   reset line    the keyboard controller's, and nothing else of it
//!   port 0x5C0        stamps        times of steps of the boot
//!   port 0xCF8-0xCFF  PCI configuration
//!   0xFEC0_0000       IOAPIC        with the UART
//!   others, and all other MMIO      BARs of PCI functions
//! ```
//!
//! An access that nobody answers reads ones and writes nothing, as on a real bus. Called by all vCPU threads at once: each
//! device has its own lock, held for one access. No device blocks under it, see [`crate::virtio::device`].

use crate::legacy::ioapic::{self, IoApic};
use crate::legacy::reset;
use crate::legacy::stamps::{self, Stamps};
use crate::legacy::uart::{self, Uart};
use crate::pci::{self, Space};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// First and last port of COM1.
const UART: u16 = uart::PORT;
const LAST_UART: u16 = uart::PORT + uart::PORTS - 1;

/// What a write leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The guest goes on.
    Done,
    /// The guest wants a reset.
    Reset,
}

/// Everything that vCPUs can reach by ports and MMIO.
pub struct Bus {
    /// The serial console.
    pub uart: Option<Arc<Mutex<Uart>>>,
    /// Where its interrupt goes.
    pub ioapic: Option<Arc<Mutex<IoApic>>>,
    /// Times of steps of the boot.
    pub stamps: Arc<Stamps>,
    /// The PCI bus.
    pub pci: Arc<pci::Bus>,
}

impl Bus {
    /// `in`.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xFF);
        match (port, &self.uart) {
            (UART..=LAST_UART, Some(uart)) => {
                if let [byte] = data {
                    *byte = lock(uart).read((port - UART) as u8);
                }
            }
            (reset::STATUS_PORT, _) => data.fill(reset::STATUS),
            (pci::ADDRESS_PORT..=pci::LAST_DATA_PORT, _) => self.pci.port_read(port, data),
            _ => self.pci.bar_read(Space::Io, u64::from(port), data),
        }
    }

    /// `out`.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Outcome {
        match (port, &self.uart) {
            (UART..=LAST_UART, Some(uart)) => {
                if let [byte] = data {
                    lock(uart).write((port - UART) as u8, *byte);
                }
            }
            (reset::STATUS_PORT, _) if data.first() == Some(&reset::PULSE_RESET) => return Outcome::Reset,
            (stamps::PORT, _) => data.iter().take(1).for_each(|step| self.stamps.record(*step)),
            (pci::ADDRESS_PORT..=pci::LAST_DATA_PORT, _) => self.pci.port_write(port, data),
            _ => self.pci.bar_write(Space::Io, u64::from(port), data),
        }
        Outcome::Done
    }

    /// A load from an address without memory.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xFF);
        match (address.checked_sub(ioapic::ADDRESS), &self.ioapic) {
            (Some(offset), Some(ioapic)) if offset < ioapic::SIZE => lock(ioapic).read(offset, data),
            _ => self.pci.bar_read(Space::Memory, address, data),
        }
    }

    /// A store to an address without memory.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        match (address.checked_sub(ioapic::ADDRESS), &self.ioapic) {
            (Some(offset), Some(ioapic)) if offset < ioapic::SIZE => lock(ioapic).write(offset, data),
            _ => self.pci.bar_write(Space::Memory, address, data),
        }
    }
}

/// Takes a lock. A panic aborts the process, so no lock is ever poisoned.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
