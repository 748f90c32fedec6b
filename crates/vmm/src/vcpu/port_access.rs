//! The port access that made a vCPU exit, with the size of its elements, which `kvm_ioctls` does not tell.
#![expect(unsafe_code, reason = "reads the union that KVM shares with us")]

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX, kvm_run,
};
use kvm_ioctls::VcpuFd;

/// One `in` or `out`, or a string of them.
#[derive(Debug)]
pub struct PortAccess<'a> {
    /// The port.
    pub port: u16,
    /// Bytes of one element: 1, 2 or 4.
    pub size: usize,
    /// All elements: what the guest wrote, or where what it reads goes.
    pub data: &'a mut [u8],
}

/// The access of the KVM_EXIT_IO that `vcpu` has just returned with.
pub fn port_access(vcpu: &mut VcpuFd) -> PortAccess<'_> {
    let run = vcpu.get_kvm_run();
    // SAFETY: the last exit was KVM_EXIT_IO (the caller's duty), for which KVM fills `io`; all its bit patterns are valid.
    let io = unsafe { run.__bindgen_anon_1.io };
    let length = usize::from(io.size) * io.count as usize;
    let start = std::ptr::from_mut::<kvm_run>(run).cast::<u8>();
    // SAFETY: KVM puts `count` elements of `size` bytes at `data_offset` inside the pages that are mapped for this vCPU, of
    // which kvm_run is the start; they live as long as the vCPU, and the borrow of `vcpu` keeps KVM from writing them.
    let data = unsafe { std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), length) };
    PortAccess { port: io.port, size: usize::from(io.size).max(1), data }
}

/// In words, what the KVM_EXIT_INTERNAL_ERROR means that `vcpu` has just returned with, and where the guest was.
pub fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: the last exit was KVM_EXIT_INTERNAL_ERROR (the caller's duty), for which KVM fills `internal`.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let meaning = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "an exception while another was delivered",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an event was delivered",
        _ => "an unexpected exit of the CPU",
    };
    let place = vcpu.get_regs().map(|regs| format!(" at {:#x}", regs.rip)).unwrap_or_default();
    format!("internal error {suberror}: {meaning}{place}")
}
