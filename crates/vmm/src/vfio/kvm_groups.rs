//! Tells KVM which IOMMU groups the guest has: where the IOMMU cannot keep a device's accesses coherent, KVM then lets the guest write its
//! caches back (WBINVD), on which the device's driver relies (Linux `Documentation/virt/kvm/devices/vfio.rst`).

use super::device::Device;
use kvm_bindings::{
    KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};
use std::os::fd::AsRawFd;

/// KVM's side. It forgets the groups when this is dropped.
pub struct KvmGroups(Option<DeviceFd>);

impl KvmGroups {
    /// None yet. A kernel without CONFIG_KVM_VFIO has nothing to tell, and needs not to be told.
    pub fn new(vm: &VmFd) -> Self {
        let mut kind = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
        KvmGroups(vm.create_device(&mut kind).ok())
    }

    /// Adds the group of a device. Without success the guest's driver is as on a host that is coherent, which those of today are.
    pub fn add(&self, device: &Device) {
        let group = device.group().as_raw_fd();
        let add = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_VFIO_GROUP,
            attr: u64::from(KVM_DEV_VFIO_GROUP_ADD),
            addr: &raw const group as u64,
        };
        if let Some(kvm) = &self.0 {
            let _ = kvm.set_device_attr(&add);
        }
    }
}
