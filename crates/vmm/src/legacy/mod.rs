//! What is left of the PC: a UART with its IOAPIC when a console is asked for, the reset line, and a port for time stamps.

pub mod ioapic;
pub mod reset;
pub mod stamps;
pub mod uart;
