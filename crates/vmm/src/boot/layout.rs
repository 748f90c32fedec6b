//! Where the boot structures lie in the first MiB. All of it is the kernel's to reuse once it has read them, but for the
//! multiprocessor and ACPI tables, which are outside of what the memory map calls RAM.

/// Global descriptor table of the first vCPU.
pub const GDT: u64 = 0x500;

/// PVH start info, and behind it its module list and memory map.
pub const PVH_START_INFO: u64 = 0x6000;

/// Linux' zero page (`struct boot_params`).
pub const ZERO_PAGE: u64 = 0x7000;

/// Root of the page tables; the two tables below follow.
pub const PML4: u64 = 0x9000;

/// Second level.
pub const PDPT: u64 = 0xA000;

/// Third level: 512 entries of 2 MiB.
pub const PAGE_DIRECTORY: u64 = 0xB000;

/// A stack for kernels that use one before they make their own (bzImage needs none, PVH neither).
pub const BOOT_STACK: u64 = 0x8FF0;

/// The command line, at most 64 KiB.
pub const CMDLINE: u64 = 0x2_0000;

/// The multiprocessor configuration table, at most 11 KiB, enough for 255 CPUs.
pub const MP_TABLE: u64 = 0x9_D000;

/// The multiprocessor floating pointer: kernels look in the last KiB below 640 KiB (MP specification 1.4, section 4).
pub const MP_POINTER: u64 = 0x9_FC00;

/// The ACPI tables, beginning with their root: kernels look here as well (ACPI specification 6.5, 5.2.5.1). At most 128 KiB.
pub const RSDP: u64 = 0xE_0000;

/// End of usable RAM in the first 640 KiB.
pub const LOW_END: u64 = MP_TABLE;

/// Where usable RAM goes on.
pub const HIGH_START: u64 = 0x10_0000;

/// The word in the BIOS data area where a kernel says whether a reboot is warm (`native_machine_emergency_restart`).
pub const WARM_REBOOT_FLAG: u64 = 0x472;
