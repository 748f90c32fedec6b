//! What CPUID says in the guest: all that KVM can give, one package with as many cores as there are vCPUs, KVM's own leaves,
//! and the frequencies, so that the guest measures no clock.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1, ECX: TSC-deadline timer, hypervisor present.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical CPU in the package.
const HTT: u32 = 1 << 28;
/// `KVM_CPUID_SIGNATURE` and the leaf with the frequencies (`Documentation/virt/kvm/x86/cpuid.rst`; the layout is VMware's).
const KVM_SIGNATURE: u32 = 0x4000_0000;
const TIMING: u32 = 0x4000_0010;
/// KVM's local APIC timer counts nanoseconds (`APIC_BUS_CYCLE_NS`): 1 GHz.
const APIC_BUS_KHZ: u32 = 1_000_000;
/// Most logical CPUs that leaf 1 can count.
const MAX_LOGICAL: u32 = 255;

/// The CPUID of vCPU `index` of `count`. `tsc_khz` is 0 when it is not known.
pub fn for_vcpu(supported: &CpuId, index: u32, count: u32, tsc_khz: u32) -> CpuId {
    let mut entries = supported.as_slice().to_vec();
    // Sub-leaves of the topology leaves are made below.
    entries.retain(|e| !(matches!(e.function, 0xB | 0x1F) && e.index > 1));
    for entry in &mut entries {
        adapt(entry, index, count);
    }
    if tsc_khz > 0 {
        add_timing(&mut entries, tsc_khz);
    }
    // A supported set that large does not exist; then the plain one is right but for the topology.
    CpuId::from_entries(&entries).unwrap_or_else(|_| supported.clone())
}

fn adapt(entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    let bits = count.next_power_of_two().trailing_zeros();
    match entry.function {
        0x1 => {
            entry.ecx |= TSC_DEADLINE | HYPERVISOR;
            entry.ebx = entry.ebx & 0xFFFF | count.min(MAX_LOGICAL) << 16 | index << 24;
            entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // Cores per package, and sharers of a cache: L1 and L2 are a core's own, L3 is everybody's.
        0x4 if entry.eax & 0x1F != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharers = if level >= 3 { (1 << bits) - 1 } else { 0 };
            entry.eax = entry.eax & 0x3FFF | sharers << 14 | ((1 << bits) - 1u32).min(63) << 26;
        }
        // Extended topology: level 0 threads, level 1 cores.
        0xB | 0x1F => {
            let (shift, logical, kind) = match entry.index {
                0 => (0, 1, 1),
                1 => (bits, count, 2),
                _ => (0, 0, 0),
            };
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (shift, logical, entry.index | kind << 8, index);
        }
        // AMD: number of cores and bits of the APIC id that count them.
        0x8000_0008 => entry.ecx = entry.ecx & !0xF0FF | (count - 1).min(255) | bits << 12,
        // AMD: extended APIC id, one thread per core, one node.
        0x8000_001E => (entry.eax, entry.ebx, entry.ecx) = (index, index & 0xFF, 0),
        // AMD: sharers of a cache.
        0x8000_001D if entry.eax & 0x1F != 0 => {
            let sharers = if entry.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & !(0xFFF << 14) | sharers.min(0xFFF) << 14;
        }
        _ => {}
    }
}

fn add_timing(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    let Some(signature) = entries.iter_mut().find(|e| e.function == KVM_SIGNATURE) else { return };
    signature.eax = signature.eax.max(TIMING);
    entries.retain(|e| e.function != TIMING);
    entries.push(kvm_cpuid_entry2 {
        function: TIMING,
        eax: tsc_khz,
        ebx: APIC_BUS_KHZ,
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn every_vcpu_is_a_core_of_one_package() {
        let entry = |function, index, eax| kvm_cpuid_entry2 { function, index, eax, ..Default::default() };
        let supported = CpuId::from_entries(&[
            entry(1, 0, 0),
            entry(4, 0, 0x21),
            entry(4, 3, 0x63),
            entry(0xB, 0, 0),
            entry(0xB, 1, 0),
            entry(KVM_SIGNATURE, 0, 0x4000_0001),
        ])
        .unwrap();
        let cpuid = for_vcpu(&supported, 2, 3, 2_000_000);
        assert_eq!(leaf(&cpuid, 1, 0).ebx, 2 << 24 | 3 << 16);
        assert_eq!(leaf(&cpuid, 1, 0).ecx, TSC_DEADLINE | HYPERVISOR);
        assert_eq!(leaf(&cpuid, 1, 0).edx, HTT);
        assert_eq!(leaf(&cpuid, 4, 0).eax >> 14 & 0xFFF, 0);
        assert_eq!(leaf(&cpuid, 4, 3).eax >> 14 & 0xFFF, 3);
        assert_eq!((leaf(&cpuid, 0xB, 1).eax, leaf(&cpuid, 0xB, 1).ebx, leaf(&cpuid, 0xB, 1).edx), (2, 3, 2));
        assert_eq!((leaf(&cpuid, TIMING, 0).eax, leaf(&cpuid, TIMING, 0).ebx), (2_000_000, APIC_BUS_KHZ));
        assert_eq!(leaf(&cpuid, KVM_SIGNATURE, 0).eax, TIMING);
        assert_eq!(leaf(&for_vcpu(&supported, 0, 1, 0), 1, 0).edx, 0);
    }
}
