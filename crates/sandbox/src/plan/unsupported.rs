//! What is refused as a whole, because leaving it out would break a promise.

use super::{Inputs, PlanError};

pub(super) fn refuse(inputs: &Inputs) -> Result<(), PlanError> {
    let Some(section) = inputs.bundle.extra.refused.first() else { return Ok(()) };
    let (why, fix) = match *section {
        "linux.intelRdt" => ("the host's cache allocation is not handed into machines", "remove it"),
        "linux.netDevices" => ("network devices of the host cannot be moved into a machine yet", "remove it"),
        "linux.memoryPolicy" => {
            ("the machine has one memory node", "use linux.resources.cpu.mems for the host's nodes")
        }
        _ => ("this is a Linux host and the container runs on a Linux kernel", "remove the section"),
    };
    Err(PlanError::refused(section, why, fix))
}
