//! ACPI tables, for kernels that know no multiprocessor table (Debian's cloud kernel): CPUs, the IOAPIC, the PCI bus, and COM1.
//! A kernel with `acpi=off` on its command line reads [`super::mptable`] instead, which is quicker.
//!
//! ```text
//!   zero page, start info ─► RSDP ─► XSDT ─┬─► FADT ─► DSDT: \_SB.PCI0 (ports, windows), \_SB.COM1
//!                                          └─► MADT: local APICs, IOAPIC
//! ```
//!
//! Source: ACPI specification 6.5, chapters 5 and 6. The machine is "hardware-reduced": there are no PM registers, no SCI.

use super::{BootError, Source, layout, outside};
use crate::legacy::{ioapic, reset, uart};
use crate::memory::{self, MMIO32_END, MMIO32_START};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::{Aml, rsdp::Rsdp, sdt::Sdt, xsdt::XSDT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Who made the tables, and for what.
const OEM: [u8; 6] = *b"CLEAR ";
const OEM_TABLE: [u8; 8] = *b"VMM     ";
const OEM_REVISION: u32 = 1;

/// Revision of a DSDT whose integers have 64 bits (5.2.11.1).
const DSDT_REVISION: u8 = 2;

/// Where the local APICs are (SDM vol. 3, 11.4.1).
const LOCAL_APIC: u32 = 0xFEE0_0000;

/// `IAPC_BOOT_ARCH` (table 5.10): no VGA, no CMOS clock. The bits for legacy devices and a keyboard controller stay 0.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// Ports of the PCI configuration mechanism, which are not the bus' to give away.
const PCI_CONFIG: std::ops::RangeInclusive<u16> = 0xCF8..=0xCFF;

/// Writes the tables to [`layout::RSDP`] and behind it.
///
/// # Errors
/// When there is no RAM for them.
pub fn write(memory: &GuestMemoryMmap, source: &Source<'_>) -> Result<(), BootError> {
    memory
        .write_slice(&tables(source), GuestAddress(layout::RSDP))
        .map_err(|_| outside("the ACPI tables", layout::RSDP))
}

/// All tables, as they lie from [`layout::RSDP`] on.
fn tables(source: &Source<'_>) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len()];
    let dsdt = append(&mut bytes, dsdt(source).as_slice());
    let fadt = append(&mut bytes, &serialized(&fadt(dsdt)));
    let madt = append(&mut bytes, &serialized(&madt(source)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = append(&mut bytes, &serialized(&xsdt));
    bytes[..Rsdp::len()].copy_from_slice(&serialized(&Rsdp::new(OEM, xsdt)));
    bytes
}

/// Puts a table behind the others; returns its guest address.
fn append(bytes: &mut Vec<u8>, table: &[u8]) -> u64 {
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let address = layout::RSDP + bytes.len() as u64;
    bytes.extend_from_slice(table);
    address
}

fn serialized(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    fadt.reset_reg = GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(reset::STATUS_PORT));
    fadt.reset_value = reset::PULSE_RESET;
    fadt.finalize()
}

fn madt(source: &Source<'_>) -> MADT {
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..source.vcpus as u8 {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    if source.ioapic {
        madt.add_structure(IoApic::new(source.vcpus as u8, ioapic::ADDRESS as u32, 0));
    }
    madt
}

fn dsdt(source: &Source<'_>) -> Sdt {
    let not_cached = AddressSpaceCacheable::NotCacheable;
    let bus = AddressSpace::new_bus_number(0u16, 0);
    let low_ports = AddressSpace::new_io(0u16, PCI_CONFIG.start() - 1, None);
    let high_ports = AddressSpace::new_io(PCI_CONFIG.end() + 1, 0xFFFF, None);
    let low = AddressSpace::new_memory(not_cached, true, MMIO32_START as u32, MMIO32_END as u32 - 1, None);
    let windows = memory::windows_start(source.ram)..memory::ADDRESSABLE_END;
    let high = AddressSpace::new_memory(not_cached, true, windows.start, windows.end - 1, None);
    let pci = serialized(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&bus, &low_ports, &high_ports, &low, &high]),
            ),
        ],
    ));
    let com1 = serialized(&Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(uart::PORT, uart::PORT, 1, uart::PORTS as u8),
                    &Interrupt::new(true, true, false, false, uart::IRQ as u32),
                ]),
            ),
        ],
    ));
    let devices = if source.ioapic { [pci, com1].concat() } else { pci };
    let mut dsdt = Sdt::new(*b"DSDT", 36, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&Scope::raw("\\_SB_".into(), devices));
    dsdt
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// Address and bytes of every table, followed from the root on as a kernel does.
    fn walk(all: &[u8]) -> Vec<(String, Vec<u8>)> {
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let at = |address: u64| {
            let offset = (address - layout::RSDP) as usize;
            let length = u32::from_le_bytes(all[offset + 4..offset + 8].try_into().unwrap()) as usize;
            let bytes = all[offset..offset + length].to_vec();
            (String::from_utf8(bytes[..4].to_vec()).unwrap(), bytes)
        };
        let xsdt = at(word(all, 24));
        let mut found: Vec<_> = xsdt.1[36..].chunks(8).map(|entry| at(word(entry, 0))).collect();
        let dsdt = at(word(&found[0].1, 140));
        found.extend([xsdt, dsdt]);
        found
    }

    #[test]
    fn every_table_is_reachable_sums_to_zero_and_fits() {
        let kernel = File::open("/dev/null").unwrap();
        for (vcpus, ioapic, ram) in [(1, false, 64 << 20), (machine_spec::MAX_VCPUS, true, 1 << 40)] {
            let source = Source { kernel: &kernel, initramfs: None, cmdline: "", vcpus, ioapic, ram };
            let all = tables(&source);
            assert!(layout::RSDP + (all.len() as u64) < layout::HIGH_START);
            assert_eq!(
                (&all[..8], all[..20].iter().fold(0, |s: u8, b| s.wrapping_add(*b))),
                (b"RSD PTR ".as_slice(), 0)
            );
            let found = walk(&all);
            assert_eq!(
                found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
                ["FACP", "APIC", "XSDT", "DSDT"]
            );
            for (name, bytes) in &found {
                assert_eq!(bytes.iter().fold(0, |s: u8, b| s.wrapping_add(*b)), 0, "{name}");
            }
            assert_eq!(found[1].1.len(), 44 + 8 * vcpus as usize + if ioapic { 12 } else { 0 });
            let has_com1 = found[3].1.windows(4).any(|name| name == b"COM1");
            assert_eq!(has_com1, ioapic);
        }
    }
}
