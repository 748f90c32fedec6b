//! Gives guest memory to KVM.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes raw addresses")]

use super::MemoryError;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap};

/// Makes `region` memory slot `slot`.
///
/// # Errors
/// When KVM refuses it.
pub fn add(vm: &VmFd, slot: u32, region: &GuestRegionMmap, readonly: bool) -> Result<(), MemoryError> {
    set(vm, slot, region, region.len(), readonly)
}

/// Takes memory slot `slot` away, which is `region`. When this returns, no vCPU can reach the memory.
///
/// # Errors
/// When KVM refuses it.
pub fn remove(vm: &VmFd, slot: u32, region: &GuestRegionMmap) -> Result<(), MemoryError> {
    set(vm, slot, region, 0, false)
}

fn set(
    vm: &VmFd,
    slot: u32,
    region: &GuestRegionMmap,
    memory_size: u64,
    readonly: bool,
) -> Result<(), MemoryError> {
    let address = region.start_addr().raw_value();
    let description = kvm_userspace_memory_region {
        slot,
        flags: if readonly { KVM_MEM_READONLY } else { 0 },
        guest_phys_addr: address,
        memory_size,
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the region is mapped as long as the process lives, see `ram::anonymous`.
    unsafe { vm.set_user_memory_region(description) }.map_err(|e| MemoryError::Slot {
        address,
        size: memory_size,
        source: e.into(),
    })
}
