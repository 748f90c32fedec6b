//! Devices for a running machine: [`opened`] is what a client of the control socket hands over, [`slots`] what waits for it in the jail.

pub mod opened;
pub mod slots;
