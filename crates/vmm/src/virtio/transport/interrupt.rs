//! Which MSI-X vector stands for which event of a device.

use super::common_config::NO_VECTOR;
use crate::pci::msix::Msix;
use crate::virtio::device::Interrupt;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

/// The interrupts of one function. Shared with the device, so that it can interrupt without the transport's lock.
pub struct VirtioInterrupt {
    /// The vectors.
    pub msix: Msix,
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    generation: AtomicU8,
    isr: AtomicU8,
}

/// ISR status: a queue was used; the configuration has changed (virtio 1.2, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

impl VirtioInterrupt {
    /// No vector is assigned.
    pub fn new(msix: Msix, queues: usize) -> Self {
        VirtioInterrupt {
            msix,
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            generation: AtomicU8::new(0),
            isr: AtomicU8::new(0),
        }
    }

    /// The device was reset.
    pub fn reset(&self) {
        self.config.store(NO_VECTOR, Ordering::Release);
        self.queues.iter().for_each(|queue| queue.store(NO_VECTOR, Ordering::Release));
        self.isr.store(0, Ordering::Release);
    }

    /// Assigns a vector to the configuration; one that does not exist becomes [`NO_VECTOR`], which tells the driver.
    pub fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::Release);
    }

    /// Assigns a vector to a queue.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(slot) = self.queues.get(usize::from(queue)) {
            slot.store(self.existing(vector), Ordering::Release);
        }
    }

    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    /// The configuration's vector.
    pub fn config_vector(&self) -> u16 {
        self.config.load(Ordering::Acquire)
    }

    /// A queue's vector.
    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(NO_VECTOR, |slot| slot.load(Ordering::Acquire))
    }

    /// Counts the changes of the device's configuration.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads and clears the ISR status.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }
}

impl Interrupt for VirtioInterrupt {
    fn queue(&self, index: u16) {
        self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        self.msix.signal(self.queue_vector(index));
    }

    fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.msix.signal(self.config_vector());
    }
}
