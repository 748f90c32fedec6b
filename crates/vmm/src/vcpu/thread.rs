//! The thread of a vCPU: runs the guest, hands its port I/O and MMIO to the bus, and reports why it stopped.

use super::count::{ExitCounts, Place};
use super::exit::ExitReason;
use super::gate::Passage;
use super::port_access::{internal_error, port_access};
use crate::bus::{Bus, Outcome};
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::Arc;

/// Where a vCPU's thread reports.
pub trait Supervisor: Send + Sync {
    /// The machine has ended. Only the first report counts.
    fn ended(&self, reason: ExitReason);

    /// The guest has asked for a reset, by the reset line or by a triple fault; what it means by it is the machine's to find
    /// out.
    fn reset(&self, triple_fault: bool);
}

/// Runs the guest until the machine ends.
pub fn run(
    vcpu: &mut VcpuFd,
    bus: &Bus,
    passage: &Passage<'_>,
    supervisor: &Arc<dyn Supervisor>,
    counts: Option<&ExitCounts>,
) {
    loop {
        passage.count();
        match step(vcpu, bus, counts) {
            Step::Continue => {}
            Step::Interrupted => {
                if passage.pass() {
                    // So that no watchdog of the guest takes the pause for a hang. Refused when the guest has no such clock.
                    let _ = vcpu.kvmclock_ctrl();
                }
            }
            Step::Reset => return supervisor.reset(false),
            Step::TripleFault => return supervisor.reset(true),
            Step::Ended(reason) => return supervisor.ended(reason),
        }
    }
}

enum Step {
    Continue,
    Interrupted,
    Reset,
    TripleFault,
    Ended(ExitReason),
}

fn step(vcpu: &mut VcpuFd, bus: &Bus, counts: Option<&ExitCounts>) -> Step {
    let exit = vcpu.run();
    if let Some(counts) = counts {
        counts.add(match &exit {
            Ok(VcpuExit::IoOut(port, _)) => Place::PortWrite(*port),
            Ok(VcpuExit::IoIn(port, _)) => Place::PortRead(*port),
            Ok(VcpuExit::MmioRead(address, _)) => Place::MmioRead(address & !0xFFF),
            Ok(VcpuExit::MmioWrite(address, _)) => Place::MmioWrite(address & !0xFFF),
            _ => Place::Other,
        });
    }
    match exit {
        Ok(VcpuExit::IoOut(..)) => port_out(vcpu, bus),
        Ok(VcpuExit::IoIn(..)) => {
            let access = port_access(vcpu);
            for element in access.data.chunks_mut(access.size) {
                bus.port_read(access.port, element);
            }
            Step::Continue
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            bus.mmio_read(address, data);
            Step::Continue
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            bus.mmio_write(address, data);
            Step::Continue
        }
        Ok(VcpuExit::Shutdown) => Step::TripleFault,
        Ok(VcpuExit::InternalError) => Step::Ended(ExitReason::Internal(internal_error(vcpu))),
        Ok(VcpuExit::FailEntry(reason, cpu)) => Step::Ended(ExitReason::Internal(format!(
            "the CPU refused to enter the guest (hardware reason {reason:#x} on CPU {cpu})"
        ))),
        Ok(VcpuExit::Intr) => Step::Interrupted,
        Ok(VcpuExit::IrqWindowOpen) => Step::Continue,
        Ok(VcpuExit::SystemEvent(kind, _)) => system_event(kind),
        Ok(other) => Step::Ended(ExitReason::Internal(format!("unexpected exit {other:?}"))),
        Err(e) if e.errno() == libc::EINTR => Step::Interrupted,
        Err(e) if e.errno() == libc::EAGAIN => Step::Continue,
        Err(e) if e.errno() == libc::EFAULT => Step::Ended(ExitReason::Internal(
            "the guest used memory that has no page behind it: a file that it maps was cut short, or the host is out of memory".to_string(),
        )),
        Err(e) => Step::Ended(ExitReason::Internal(format!("KVM_RUN: {e}"))),
    }
}

/// A string instruction brings several elements, each of which is one write.
fn port_out(vcpu: &mut VcpuFd, bus: &Bus) -> Step {
    let access = port_access(vcpu);
    for element in access.data.chunks(access.size) {
        if bus.port_write(access.port, element) == Outcome::Reset {
            return Step::Reset;
        }
    }
    Step::Continue
}

/// What Hyper-V's and others' guests report through KVM.
fn system_event(kind: u32) -> Step {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Step::Ended(ExitReason::PowerOff),
        KVM_SYSTEM_EVENT_RESET => Step::Reset,
        KVM_SYSTEM_EVENT_CRASH => Step::Ended(ExitReason::Panic),
        other => Step::Ended(ExitReason::Internal(format!("unexpected system event {other}"))),
    }
}
