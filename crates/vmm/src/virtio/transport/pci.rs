//! The function's registers, as the PCI bus reaches them.

use super::capabilities::{COMMON, DEVICE, ISR, MSIX, NOTIFY, PORTS, PORTS_SIZE};
use super::common_config::Effect;
use super::{VirtioPci, status};
use crate::pci::Function;
use crate::pci::config::{BAR_AND_COMMAND, ConfigSpace};

/// Offset of `device_status` in the common configuration (4.1.4.3).
const STATUS: u64 = 0x14;

/// Offsets in the PCI configuration access capability (virtio 1.2, 4.1.4.9).
const ACCESS_BAR: usize = 4;
const ACCESS_OFFSET: usize = 8;
const ACCESS_LENGTH: usize = 12;
const ACCESS_DATA: usize = 16;

impl Function for VirtioPci {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: usize, length: usize) {
        if let Some((bar, at, size)) = self.access(offset, length) {
            let mut data = [0xFF; 4];
            self.read_bar(bar, at, &mut data[..size]);
            self.config.put(self.layout.pci_access + ACCESS_DATA, &data);
        }
    }

    fn config_written(&mut self, offset: usize, length: usize) {
        let touches = |at: usize| (offset..offset + length).contains(&at);
        if touches(self.layout.msix_control) {
            let mut high = [0];
            self.config.read(self.layout.msix_control, &mut high);
            self.interrupt.msix.control(high[0]);
        }
        if BAR_AND_COMMAND.clone().any(touches) && self.activated && self.attached_at != self.ports() {
            self.detach();
            self.attach();
        }
        if let Some((bar, at, size)) = self.access(offset, length) {
            let mut data = [0; 4];
            self.config.read(self.layout.pci_access + ACCESS_DATA, &mut data);
            self.write_bar(bar, at, &data[..size]);
        }
    }

    fn read_bar(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        match (bar, offset) {
            (PORTS, COMMON..NOTIFY) => {
                if (offset..offset + data.len() as u64).contains(&STATUS) {
                    self.reset_unseen = false;
                }
                let interrupt = &self.interrupt;
                let vector = |queue| interrupt.queue_vector(queue);
                self.common.read(offset, data, interrupt.generation(), interrupt.config_vector(), vector);
            }
            (PORTS, DEVICE..ISR) => {
                data.fill(0);
                self.device.read_config(offset - DEVICE, data);
            }
            (PORTS, ISR) => {
                data.fill(0);
                data[0] = self.interrupt.take_isr();
            }
            (MSIX, _) => self.interrupt.msix.read(offset, data),
            _ => {}
        }
    }

    fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]) {
        match (bar, offset) {
            (PORTS, COMMON..NOTIFY) => match self.common.write(offset, data) {
                Effect::None => {}
                Effect::Status(value) => self.status_written(value),
                Effect::ConfigVector(vector) => self.interrupt.set_config_vector(vector),
                Effect::QueueVector(queue, vector) => self.interrupt.set_queue_vector(queue, vector),
            },
            (PORTS, NOTIFY..DEVICE) => {
                self.kicked(((offset - NOTIFY) / super::capabilities::DOORBELL) as u16)
            }
            // After a failure the device is left alone until its reset.
            (PORTS, DEVICE..ISR) if self.common.status & status::NEEDS_RESET == 0 => {
                self.device.write_config(offset - DEVICE, data);
                self.changed();
            }
            (MSIX, _) => self.interrupt.msix.write(offset, data),
            _ => {}
        }
    }
}

impl VirtioPci {
    /// The access that touching the data of the PCI access capability stands for, if it is a valid one.
    fn access(&self, offset: usize, length: usize) -> Option<(usize, u64, usize)> {
        let data_at = self.layout.pci_access + ACCESS_DATA;
        if offset >= data_at + 4 || data_at >= offset + length {
            return None;
        }
        let word = |at: usize| {
            let mut bytes = [0; 4];
            self.config.read(self.layout.pci_access + at, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let (bar, at, size) =
            (word(ACCESS_BAR) as u8, u64::from(word(ACCESS_OFFSET)), word(ACCESS_LENGTH) as usize);
        let end = match usize::from(bar) {
            PORTS => u64::from(PORTS_SIZE),
            MSIX => 4096,
            _ => return None,
        };
        (matches!(size, 1 | 2 | 4) && at % size as u64 == 0 && at + size as u64 <= end).then_some((
            usize::from(bar),
            at,
            size,
        ))
    }
}
