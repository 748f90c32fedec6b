//! Virtual CPUs: what they are (CPUID, MSRs, first registers) and the threads that run them.
//!
//! ```text
//!   cpuid.rs ─► registers.rs ─► thread.rs: KVM_RUN ─► port I/O, MMIO ─► bus
//!        prefault.rs   gate.rs: pause   └─ everything else ends the machine: exit.rs
//! ```

pub mod count;
pub mod cpuid;
pub mod exit;
pub mod gate;
mod port_access;
pub mod prefault;
pub mod registers;
pub mod thread;

use crate::boot::Entry;
use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;

/// A vCPU that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{doing} of vCPU {index}: {source}")]
pub struct VcpuError {
    /// What was tried, for example `setting the registers`.
    pub doing: &'static str,
    /// Which vCPU.
    pub index: u32,
    /// KVM's answer.
    pub source: std::io::Error,
}

/// Makes vCPU `index`. The first one starts at `entry`; the others wait until the guest starts them.
///
/// # Errors
/// When KVM refuses something.
pub fn create(
    vm: &VmFd,
    memory: &GuestMemoryMmap,
    supported: &CpuId,
    index: u32,
    count: u32,
    entry: Entry,
) -> Result<VcpuFd, VcpuError> {
    let failed = |doing| move |e: kvm_ioctls::Error| VcpuError { doing, index, source: e.into() };
    let vcpu = vm.create_vcpu(u64::from(index)).map_err(failed("creation"))?;
    // CPUID first: KVM_SET_SREGS refuses EFER.LME for a CPU without long mode.
    let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
    let cpuid = cpuid::for_vcpu(supported, index, count, tsc_khz);
    vcpu.set_cpuid2(&cpuid).map_err(failed("setting the CPUID"))?;
    registers::set_msrs(&vcpu).map_err(failed("setting the MSRs"))?;
    if index == 0 {
        registers::set_entry(&vcpu, memory, entry).map_err(|source| VcpuError {
            doing: "setting the registers",
            index,
            source,
        })?;
    }
    Ok(vcpu)
}
