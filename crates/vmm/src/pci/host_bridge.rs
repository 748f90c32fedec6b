//! Function 0 of the bus: kernels take a bus for real when there is a host bridge on it.

use super::Function;
use super::config::{ConfigSpace, Identity};

/// A bridge to nothing.
pub struct HostBridge(ConfigSpace);

impl HostBridge {
    /// The ids are those of QEMU's generic PCI Express host bridge, which no driver claims.
    pub fn new() -> Self {
        HostBridge(ConfigSpace::new(Identity {
            vendor: 0x1B36,
            device: 0x0008,
            class: 0x06_0000,
            subsystem: 0x1100,
        }))
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl Function for HostBridge {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }

    fn config_written(&mut self, _offset: usize, _length: usize) {}

    fn read_bar(&mut self, _bar: usize, _offset: u64, _data: &mut [u8]) {}

    fn write_bar(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}
}
