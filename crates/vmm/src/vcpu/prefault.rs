//! Maps guest memory for the vCPUs before they run: one call instead of an exit for each page.
#![expect(unsafe_code, reason = "an ioctl that kvm-ioctls does not have")]

use kvm_bindings::kvm_pre_fault_memory;
use kvm_ioctls::VcpuFd;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// `KVM_PRE_FAULT_MEMORY` of `include/uapi/linux/kvm.h`, Linux 6.11: `_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)`.
const KVM_PRE_FAULT_MEMORY: libc::c_ulong = 0xC040_AED5;

/// Maps the pages of the file that lie at `range` for the vCPUs, as they are: nothing is copied.
///
/// Only saves time, so a host that cannot (older Linux, no nested paging) is no error.
pub fn map(vcpu: &VcpuFd, range: &Range<u64>) {
    const PAGE: u64 = crate::memory::PAGE;
    let gpa = range.start - range.start % PAGE;
    let mut rest =
        kvm_pre_fault_memory { gpa, size: range.end.next_multiple_of(PAGE) - gpa, ..Default::default() };
    while rest.size > 0 {
        // SAFETY: the argument is the struct of that ioctl, which lives until it returns; the kernel moves `gpa` and `size` on.
        let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_PRE_FAULT_MEMORY, &raw mut rest) };
        let interrupted = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if result < 0 && !interrupted() {
            return;
        }
    }
}
