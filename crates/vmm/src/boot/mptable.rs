//! The multiprocessor table: CPUs and, if there is one, the IOAPIC with the ISA interrupt lines. It tells a kernel without ACPI what there is.
//!
//! Source: Intel MultiProcessor Specification 1.4, chapter 4.

use super::{BootError, layout, outside};
use crate::legacy::ioapic;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Where the local APICs are (SDM vol. 3, 11.4.1).
const LOCAL_APIC: u32 = 0xFEE0_0000;
/// Local APIC version that CPUs have had since the Pentium 4.
const APIC_VERSION: u8 = 0x14;

/// CPU flags: usable; and the one that boots.
const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;

/// Writes the table for `vcpus` CPUs, with APIC ids from 0 on.
///
/// # Errors
/// When there is no RAM for it.
pub fn write(memory: &GuestMemoryMmap, vcpus: u32, ioapic: bool) -> Result<(), BootError> {
    let failed = |_| outside("the multiprocessor table", layout::MP_TABLE);
    memory.write_slice(&table(vcpus, ioapic), GuestAddress(layout::MP_TABLE)).map_err(failed)?;
    memory.write_slice(&pointer(), GuestAddress(layout::MP_POINTER)).map_err(failed)
}

/// The floating pointer structure.
fn pointer() -> [u8; 16] {
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(layout::MP_TABLE as u32).to_le_bytes());
    pointer[8] = 1;
    pointer[9] = 4;
    pointer[10] = checksum(&pointer);
    pointer
}

/// The configuration table.
fn table(vcpus: u32, ioapic: bool) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    let io_apic_id = vcpus as u8;
    for cpu in 0..vcpus {
        let flags = if cpu == 0 { CPU_ENABLED | CPU_BOOT } else { CPU_ENABLED };
        let mut entry = [0; 20];
        entry[1] = cpu as u8;
        entry[2] = APIC_VERSION;
        entry[3] = flags;
        add(&entry);
    }
    add(b"\x01\x00ISA   ");
    if ioapic {
        let mut entry = [2, io_apic_id, 0x11, 1, 0, 0, 0, 0];
        entry[4..].copy_from_slice(&(ioapic::ADDRESS as u32).to_le_bytes());
        add(&entry);
        // Each line of the ISA bus is wired to the pin of its number.
        for line in 0..ioapic::PINS as u8 {
            add(&[3, 0, 0, 0, 0, line, io_apic_id, line]);
        }
    }
    // Local interrupts: LINT0 takes what an 8259 would send, LINT1 takes NMIs.
    add(&[4, 3, 0, 0, 0, 0, 0, 0]);
    add(&[4, 1, 0, 0, 0, 0, 0xFF, 1]);
    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"PCMP");
    table[4..6].copy_from_slice(&((44 + entries.len()) as u16).to_le_bytes());
    table[6] = 4;
    table[8..16].copy_from_slice(b"CLEAR   ");
    table[16..28].copy_from_slice(b"VMM         ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);
    table
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_zero_and_the_largest_table_fits() {
        for vcpus in [1, 2, machine_spec::MAX_VCPUS] {
            let table = table(vcpus, true);
            assert!(super::table(vcpus, false).len() < table.len());
            assert_eq!(table.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
            assert!((table.len() as u64) < layout::MP_POINTER - layout::MP_TABLE);
            assert_eq!(u16::from_le_bytes([table[4], table[5]]) as usize, table.len());
        }
        assert_eq!(pointer().iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    }
}
