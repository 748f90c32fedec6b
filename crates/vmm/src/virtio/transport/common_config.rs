//! The common configuration (virtio 1.2, 4.1.4.3): features, status and the set-up of queues.

use super::queue::QueueSetup;
use super::{VERSION_1, status};

/// No MSI-X vector.
pub const NO_VECTOR: u16 = 0xFFFF;

/// Failures of one device that are worth a line.
const LOGGED_FAILURES: u32 = 3;

/// Register offsets; all are little endian.
mod at {
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    pub const DEVICE_FEATURE: u64 = 4;
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    pub const DRIVER_FEATURE: u64 = 12;
    pub const CONFIG_VECTOR: u64 = 16;
    pub const NUM_QUEUES: u64 = 18;
    pub const STATUS: u64 = 20;
    pub const GENERATION: u64 = 21;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_VECTOR: u64 = 26;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY_OFF: u64 = 30;
    pub const QUEUE_DESC: u64 = 32;
    pub const QUEUE_DRIVER: u64 = 40;
    pub const QUEUE_DEVICE: u64 = 48;
}

/// What a write asks of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The status is to become this.
    Status(u8),
    /// The configuration's vector is to become this.
    ConfigVector(u16),
    /// A queue's vector is to become this.
    QueueVector(u16, u16),
}

/// The registers.
#[derive(Debug)]
pub struct CommonConfig {
    offered: u64,
    /// What the driver has accepted.
    pub accepted: u64,
    device_select: u32,
    driver_select: u32,
    /// Device status.
    pub status: u8,
    queue_select: u16,
    /// The queues as the driver sets them up.
    pub queues: Vec<QueueSetup>,
    failures: u32,
}

impl CommonConfig {
    /// After power-on.
    pub fn new(offered: u64, sizes: &[u16]) -> Self {
        let queues = sizes.iter().map(|size| QueueSetup::new(*size)).collect();
        CommonConfig {
            offered,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            status: 0,
            queue_select: 0,
            queues,
            failures: 0,
        }
    }

    /// After the driver has written 0 to the status.
    pub fn reset(&mut self) {
        (self.accepted, self.device_select, self.driver_select, self.status, self.queue_select) =
            (0, 0, 0, 0, 0);
        self.queues.iter_mut().for_each(QueueSetup::reset);
    }

    /// Whether the device can work with what the driver accepted.
    pub fn accept_features(&self) -> bool {
        self.accepted & VERSION_1 != 0 && self.accepted & !self.offered == 0
    }

    /// Whether one more failure may be logged: a guest can make as many as it likes.
    pub fn log_failure(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures <= LOGGED_FAILURES
    }

    /// Reads; `generation`, and the vectors, are held elsewhere. Bytes that are no register read zero.
    pub fn read(
        &self,
        offset: u64,
        data: &mut [u8],
        generation: u8,
        config_vector: u16,
        queue_vector: impl Fn(u16) -> u16,
    ) {
        let mut image = [0; 64];
        let mut put =
            |at: u64, bytes: &[u8]| image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        put(at::DEVICE_FEATURE_SELECT, &self.device_select.to_le_bytes());
        put(at::DEVICE_FEATURE, &half(self.offered, self.device_select).to_le_bytes());
        put(at::DRIVER_FEATURE_SELECT, &self.driver_select.to_le_bytes());
        put(at::DRIVER_FEATURE, &half(self.accepted, self.driver_select).to_le_bytes());
        put(at::CONFIG_VECTOR, &config_vector.to_le_bytes());
        put(at::NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        put(at::STATUS, &[self.status]);
        put(at::GENERATION, &[generation]);
        put(at::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0.
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(at::QUEUE_SIZE, &queue.size.to_le_bytes());
            put(at::QUEUE_VECTOR, &queue_vector(self.queue_select).to_le_bytes());
            put(at::QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(at::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(at::QUEUE_DESC, &queue.descriptors.to_le_bytes());
            put(at::QUEUE_DRIVER, &queue.available.to_le_bytes());
            put(at::QUEUE_DEVICE, &queue.used.to_le_bytes());
        }
        for (index, byte) in data.iter_mut().enumerate() {
            *byte =
                offset.checked_add(index as u64).and_then(|at| image.get(at as usize)).copied().unwrap_or(0);
        }
    }

    /// Writes one register; an access that is not exactly one is ignored (4.1.3.1 asks drivers for field-sized accesses).
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let select = self.queue_select;
        match (offset, data) {
            (at::STATUS, [value]) => return Effect::Status(*value),
            (_, [low, high]) => {
                let value = u16::from_le_bytes([*low, *high]);
                match offset {
                    at::CONFIG_VECTOR => return Effect::ConfigVector(value),
                    at::QUEUE_SELECT => self.queue_select = value,
                    at::QUEUE_VECTOR => return Effect::QueueVector(select, value),
                    at::QUEUE_SIZE => self.with_queue(|queue| queue.set_size(value)),
                    at::QUEUE_ENABLE if value == 1 => self.with_queue(|queue| queue.enabled = true),
                    _ => {}
                }
            }
            (_, [a, b, c, d]) => self.write32(offset, u32::from_le_bytes([*a, *b, *c, *d])),
            (at::QUEUE_DESC | at::QUEUE_DRIVER | at::QUEUE_DEVICE, bytes) if bytes.len() == 8 => {
                let word =
                    |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                self.write32(offset, word(0));
                self.write32(offset + 4, word(4));
            }
            _ => {}
        }
        Effect::None
    }

    fn write32(&mut self, offset: u64, value: u32) {
        match offset {
            at::DEVICE_FEATURE_SELECT => self.device_select = value,
            at::DRIVER_FEATURE_SELECT => self.driver_select = value,
            // Once accepted, features stay.
            at::DRIVER_FEATURE if self.status & status::FEATURES_OK == 0 => match self.driver_select {
                0 => self.accepted = self.accepted & !0xFFFF_FFFF | u64::from(value),
                1 => self.accepted = self.accepted & 0xFFFF_FFFF | u64::from(value) << 32,
                _ => {}
            },
            at::QUEUE_DESC..=0x37 => {
                let shift = (offset & 4) * 8;
                let set = |address: &mut u64| {
                    *address = *address & !(0xFFFF_FFFF << shift) | u64::from(value) << shift
                };
                self.with_queue(|queue| match offset & !7 {
                    at::QUEUE_DESC => set(&mut queue.descriptors),
                    at::QUEUE_DRIVER => set(&mut queue.available),
                    at::QUEUE_DEVICE => set(&mut queue.used),
                    _ => {}
                });
            }
            _ => {}
        }
    }

    /// The selected queue, while the driver may still change it.
    fn with_queue(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        if self.status & status::DRIVER_OK == 0
            && let Some(queue) = self.queues.get_mut(usize::from(self.queue_select))
            && !queue.enabled
        {
            change(queue);
        }
    }
}

/// 32 of 64 bits.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
