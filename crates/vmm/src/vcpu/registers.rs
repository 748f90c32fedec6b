//! The state in which a vCPU starts: the modes that the boot protocols ask for.

use crate::boot::{Entry, layout};
use crate::memory::HUGE_PAGE;
use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use std::io;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Default memory type: MTRRs enabled, write-back (SDM vol. 3, 12.11.2.1). Without it Linux takes pmem for uncached.
const MSR_MTRR_DEF_TYPE: u32 = 0x2FF;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;
/// Fast string operations, which Linux looks for on Intel CPUs.
const MSR_MISC_ENABLE: u32 = 0x1A0;
const FAST_STRINGS: u64 = 1;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Page table entry: present, writable; and, in a page directory, a huge page.
const PRESENT_WRITABLE: u64 = 3;
const HUGE: u64 = 1 << 7;
/// Reserved bit of RFLAGS that is always one.
const RFLAGS: u64 = 2;

/// Sets the MSRs that every vCPU starts with.
///
/// # Errors
/// KVM's error.
pub fn set_msrs(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK), entry(MSR_MISC_ENABLE, FAST_STRINGS)];
    // Two entries always fit. KVM stops at the first one it does not know, which is no reason not to run.
    let Ok(msrs) = Msrs::from_entries(&entries) else { return Ok(()) };
    vcpu.set_msrs(&msrs).map(|_| ())
}

/// Sets registers and tables for the entry point.
///
/// # Errors
/// KVM's error, or no RAM for the tables.
pub fn set_entry(vcpu: &VcpuFd, memory: &GuestMemoryMmap, entry: Entry) -> io::Result<()> {
    let long = matches!(entry, Entry::Linux64 { .. });
    let mut sregs = vcpu.get_sregs()?;
    let code = segment(0x10, 0xB, long);
    let data = segment(0x18, 0x3, false);
    write_gdt(memory, code, data)?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy TSS must be there for VM entry; nobody uses it.
    sregs.tr = kvm_segment { type_: 0xB, present: 1, limit: 0x67, ..Default::default() };
    sregs.cr0 = CR0_PE | CR0_ET;
    let mut regs = kvm_regs { rflags: RFLAGS, ..Default::default() };
    match entry {
        Entry::Linux64 { address } => {
            identity_map(memory)?;
            sregs.cr3 = layout::PML4;
            sregs.cr4 |= CR4_PAE;
            sregs.cr0 |= CR0_PG;
            sregs.efer |= EFER_LME | EFER_LMA;
            regs.rip = address;
            regs.rsi = layout::ZERO_PAGE;
            regs.rsp = layout::BOOT_STACK;
        }
        Entry::Pvh { address } => {
            regs.rip = u64::from(address);
            regs.rbx = layout::PVH_START_INFO;
        }
    }
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&regs)?;
    Ok(())
}

/// A flat segment.
fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The descriptors behind the selectors, for kernels that reload them.
fn write_gdt(memory: &GuestMemoryMmap, code: kvm_segment, data: kvm_segment) -> io::Result<()> {
    let table = [0, 0, descriptor(code), descriptor(data)];
    memory.write_obj(table, GuestAddress(layout::GDT)).map_err(io::Error::other)
}

/// A segment descriptor (SDM vol. 3, 3.4.5) with base 0 and limit 4 GiB.
fn descriptor(segment: kvm_segment) -> u64 {
    let bits = |value: u8, at: u32| u64::from(value) << at;
    0xF_0000_0000_FFFF & !(0xF << 32)
        | 0xF << 48
        | bits(segment.type_, 40)
        | bits(segment.s, 44)
        | bits(segment.present, 47)
        | bits(segment.l, 53)
        | bits(segment.db, 54)
        | bits(segment.g, 55)
}

/// Maps the first GiB one to one with 2 MiB pages.
fn identity_map(memory: &GuestMemoryMmap) -> io::Result<()> {
    let write = |value: u64, at: u64| memory.write_obj(value, GuestAddress(at)).map_err(io::Error::other);
    write(layout::PDPT | PRESENT_WRITABLE, layout::PML4)?;
    write(layout::PAGE_DIRECTORY | PRESENT_WRITABLE, layout::PDPT)?;
    let directory: Vec<u8> =
        (0..512u64).flat_map(|i| ((i * HUGE_PAGE) | PRESENT_WRITABLE | HUGE).to_le_bytes()).collect();
    memory.write_slice(&directory, GuestAddress(layout::PAGE_DIRECTORY)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_flat() {
        assert_eq!(descriptor(segment(0x10, 0xB, true)), 0x00AF_9B00_0000_FFFF);
        assert_eq!(descriptor(segment(0x10, 0xB, false)), 0x00CF_9B00_0000_FFFF);
        assert_eq!(descriptor(segment(0x18, 0x3, false)), 0x00CF_9300_0000_FFFF);
    }
}
