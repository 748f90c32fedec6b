//! Console: virtio-console with its one port (virtio 1.2, 5.3), by which a guest talks to two files.
//!
//! ```text
//!   input file ── readable, and the guest has a buffer ─► readv ─► receive queue (0)
//!   output file ◄── writev ◄── transmit queue (1); a file that is full keeps the buffer until it is writable
//! ```
//!
//! Nothing is buffered here: bytes wait in the guest's buffers or in the host's pipe, so whoever is slow holds up only the other
//! end. A file that breaks (the reader has gone) swallows what comes after; the guest is never held up by it.

pub mod port;
#[cfg(test)]
mod tests;

use super::counters::Counters;
use super::device::{Activation, Device, DeviceError, Watch};
use super::ring::{RING_FEATURES, Ring};
use port::{Input, Output};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// VIRTIO_CONSOLE_F_SIZE
const F_SIZE: u64 = 1 << 0;
/// VIRTIO_CONSOLE_F_EMERG_WRITE
const F_EMERG_WRITE: u64 = 1 << 2;
/// `emerg_wr` in `struct virtio_console_config` (5.3.4).
const EMERG_WRITE: u64 = 8;

const QUEUE_SIZE: u16 = 64;
const TOKEN_INPUT: u64 = 0;
const TOKEN_OUTPUT: u64 = 1;

struct Active {
    receive: Ring,
    transmit: Ring,
}

/// The device.
pub struct Console {
    input: Input,
    output: Output,
    size: Option<(u16, u16)>,
    counters: Arc<Counters>,
    active: Option<Active>,
}

impl Console {
    /// A console that reads `input` and writes `output`; `size` is columns and rows, if somebody sees it.
    ///
    /// Pipes, sockets and terminals must be non-blocking; a terminal on an open file description of its own, or the
    /// programs that share it get to feel it.
    ///
    /// # Errors
    /// `InvalidInput` for a file that would block.
    pub fn new(input: Option<File>, output: Option<File>, size: Option<(u16, u16)>) -> io::Result<Self> {
        Ok(Self {
            input: Input::new(input)?,
            output: Output::new(output)?,
            size,
            counters: Arc::default(),
            active: None,
        })
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        self.input.process(&mut active.receive)?;
        self.output.process(&mut active.transmit)
    }
}

impl Device for Console {
    fn name(&self) -> &str {
        "console"
    }

    fn kind(&self) -> u32 {
        3
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES | F_EMERG_WRITE | if self.size.is_some() { F_SIZE } else { 0 }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = self.size.unwrap_or_default();
        let mut config = [0; 12];
        config[..2].copy_from_slice(&columns.to_le_bytes());
        config[2..4].copy_from_slice(&rows.to_le_bytes());
        config[4..8].copy_from_slice(&1_u32.to_le_bytes());
        super::config::read(&config, offset, data);
    }

    /// A character for when no queue works yet, or no more; lost when the file is full.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if offset == EMERG_WRITE && !data.is_empty() {
            self.output.emergency(data[0]);
        }
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        Some(Arc::clone(&self.counters))
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Activation { memory, mut queues, features, interrupt } = activation;
        let mut ring = |index| {
            let queue = super::config::required_queue("console", &mut queues, index)?;
            Ok(Ring::new("console", queue, features, &memory, &interrupt)?.counted(&self.counters))
        };
        self.active = Some(Active { receive: ring(0)?, transmit: ring(1)? });
        Ok(())
    }

    fn kick(&mut self, _: u16) -> Result<(), DeviceError> {
        self.process()
    }

    fn watches(&self) -> Vec<Watch> {
        match &self.active {
            Some(_) => [self.input.watch(TOKEN_INPUT), self.output.watch(TOKEN_OUTPUT)]
                .into_iter()
                .flatten()
                .collect(),
            None => Vec::new(),
        }
    }

    fn ready(&mut self, token: u64) -> Result<(), DeviceError> {
        if token == TOKEN_OUTPUT {
            self.output.unblock();
        }
        self.process()
    }

    fn reset(&mut self) {
        self.active = None;
        self.input.reset();
        self.output.reset();
    }
}
