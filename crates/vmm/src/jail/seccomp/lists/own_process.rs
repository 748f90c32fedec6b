/// Stands for the process id, which nobody knows when a list is compiled. No process has it: they end at 2^22.
pub const OWN_PROCESS: u32 = 0x8000_0001;
