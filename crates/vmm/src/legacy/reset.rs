//! The one thing of the keyboard controller that a machine without a keyboard needs: its line to the CPU's reset pin.

/// Command and status port of the 8042.
pub const STATUS_PORT: u16 = 0x64;

/// The command that pulses the reset line.
pub const PULSE_RESET: u8 = 0xFE;

/// What the status port reads. The output buffer is full for ever (bit 0), so that Linux' i8042 driver, which wants to empty
/// it first, gives up at once; the input buffer is empty (bit 1), so that the reset code, which waits for that, does not.
pub const STATUS: u8 = 0xFD;
