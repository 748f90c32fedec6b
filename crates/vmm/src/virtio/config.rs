//! The two things that each device does with what the transport hands it: answer reads of its configuration space, and take
//! the queues it cannot do without.

use super::device::{ActiveQueue, DeviceError};

/// Copies from `config` at `offset` into `data`; beyond the end of `config` it stays as it is.
pub fn read(config: &[u8], offset: u64, data: &mut [u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(config.len());
    data.iter_mut().zip(&config[start..]).for_each(|(to, from)| *to = *from);
}

/// Takes queue `index` of the device `device`.
///
/// # Errors
/// When the driver has not enabled it.
pub fn required_queue(
    device: &str,
    queues: &mut [Option<ActiveQueue>],
    index: usize,
) -> Result<ActiveQueue, DeviceError> {
    queues.get_mut(index).and_then(Option::take).ok_or_else(|| DeviceError {
        device: device.to_string(),
        reason: format!("queue {index} is not enabled by the driver"),
    })
}
