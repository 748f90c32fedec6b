//! A guest that does anything in any order, and what no device may do for it.

use super::{AVAILABLE, DATA, Driver, RINGS};
use crate::virtio::device::Device;

/// Something that a guest may do.
#[derive(Debug, Clone)]
pub enum Step {
    /// Write a descriptor into the table of a queue.
    Descriptor(usize, Descriptor),
    /// Write a descriptor into the data area, for use as indirect table.
    Indirect(Descriptor),
    /// Write bytes into the data area, at this offset.
    Data(u64, Vec<u8>),
    /// Offer a head to a queue.
    Offer(usize, u16),
    /// Set the available index of a queue.
    Index(usize, u16),
    /// Offer a queue a chain in which everything is in order but its content: address, bytes, whether the device writes.
    Chain(usize, Vec<(u64, u32, bool)>),
    /// Offer a queue a request and kick.
    Request(usize, Request),
    /// Kick a queue.
    Kick(u16),
    /// Read the configuration space: offset, bytes.
    ReadConfig(u64, usize),
    /// Write it.
    WriteConfig(u64, Vec<u8>),
    /// The host's end of the device's file says this.
    Host(Vec<u8>),
    /// Let the device look at its files.
    Pump,
    /// Reset the device and start it again.
    Reset,
}

/// A descriptor, as it is in a table.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// Which one of the table.
    pub index: u16,
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// NEXT, WRITE, INDIRECT.
    pub flags: u16,
    /// Which one follows.
    pub next: u16,
}

/// Something to read for the device, in two pieces, and room for its answer.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it reads.
    pub readable: Vec<u8>,
    /// Where the first piece ends.
    pub cut: usize,
    /// Bytes for the answer.
    pub room: u32,
}

/// Does it all to `device`. Panics when a used ring has an entry that cannot be.
pub fn abuse(device: &mut dyn Device, features: u64, steps: &[Step]) {
    play(device, features, steps, &mut |_| ());
}

/// The same with a host's end, which is called with what it is to say.
pub fn play(device: &mut dyn Device, features: u64, steps: &[Step], host: &mut dyn FnMut(&[u8])) {
    let mut driver = Driver::new(device, features);
    let count = driver.queues.len();
    for step in steps {
        match step.clone() {
            Step::Descriptor(queue, descriptor) => {
                driver.descriptor((queue % count) as u64 * RINGS, descriptor);
            }
            Step::Indirect(descriptor) => driver.descriptor(DATA, descriptor),
            Step::Data(offset, bytes) => driver.write(DATA + offset, &bytes),
            Step::Offer(queue, head) => driver.offer(queue % count, head),
            Step::Index(queue, index) => {
                driver.queues[queue % count].available = index;
                driver.write((queue % count) as u64 * RINGS + AVAILABLE + 2, &index.to_le_bytes());
            }
            Step::Chain(queue, pieces) => {
                driver.add(queue % count, &pieces);
            }
            Step::Request(queue, Request { readable, cut, room }) => {
                driver.recycle(readable.len() as u64 + u64::from(room));
                let (from, to) = (driver.place(&readable), driver.alloc(u64::from(room)));
                let cut = cut.min(readable.len());
                let rest = readable.len() - cut;
                let pieces =
                    [(from, cut as u32, false), (from + cut as u64, rest as u32, false), (to, room, true)];
                let pieces: Vec<_> = pieces.into_iter().filter(|(_, len, _)| *len > 0).collect();
                if !pieces.is_empty() {
                    driver.add(queue % count, &pieces);
                    drop(driver.kick(device, queue % count));
                }
            }
            Step::Host(bytes) => host(&bytes),
            // Broken rings are an answer; a panic, a crash or an endless loop is not.
            Step::Kick(queue) => drop(driver.kick(device, usize::from(queue))),
            Step::ReadConfig(offset, len) => device.read_config(offset, &mut vec![0; len]),
            Step::WriteConfig(offset, bytes) => device.write_config(offset, &bytes),
            Step::Pump => drop(driver.pump(device, 0)),
            Step::Reset => driver.reset(device),
        }
        for queue in 0..count {
            let size = u32::from(driver.queues[queue].size);
            assert!(driver.used(queue).iter().all(|(head, _)| *head < size), "a used entry is no head");
        }
    }
    device.reset();
}
