//! Scheduling of a process: CPU policy and IO priority, by name to the kernel's numbers.

use super::PlanError;
use guest_protocol::message::Scheduler;
use oci_spec::runtime as oci;

/// Class and level for ioprio_set(2).
pub(super) fn io_priority(given: &oci::LinuxIOPriority) -> Result<(u8, u8), PlanError> {
    // IOPRIO_CLASS_* of `include/uapi/linux/ioprio.h`.
    let class = match given.class() {
        oci::IOPriorityClass::IoprioClassRt => 1,
        oci::IOPriorityClass::IoprioClassBe => 2,
        oci::IOPriorityClass::IoprioClassIdle => 3,
    };
    match u8::try_from(given.priority()) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(PlanError::invalid("process.ioPriority.priority", "must be 0 to 7")),
    }
}

/// Arguments for sched_setattr(2).
pub(super) fn scheduler(given: &oci::Scheduler) -> Result<Scheduler, PlanError> {
    use oci::LinuxSchedulerPolicy as P;
    let invalid =
        |field: &str, problem: &str| PlanError::invalid(format!("process.scheduler.{field}"), problem);
    // SCHED_* of `include/uapi/linux/sched.h`.
    let policy = match given.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let nice = given.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(invalid("nice", "must be -20 to 19"));
    }
    let real_time = matches!(given.policy(), P::SchedFifo | P::SchedRr);
    let priority = match given.priority().unwrap_or(0) {
        0 if !real_time => 0,
        priority @ 1..=99 if real_time => priority as u32,
        _ if real_time => return Err(invalid("priority", "must be 1 to 99 for this policy")),
        _ => return Err(invalid("priority", "is only for SCHED_FIFO and SCHED_RR")),
    };
    let times = [*given.runtime(), *given.deadline(), *given.period()];
    if given.policy() != &P::SchedDeadline && times.iter().any(|time| time.unwrap_or(0) != 0) {
        return Err(invalid("runtime", "runtime, deadline and period are only for SCHED_DEADLINE"));
    }
    let [runtime, deadline, period] = times.map(|time| time.unwrap_or(0));
    let flags = given.flags().iter().flatten().fold(0, |bits, name| bits | flag(*name));
    Ok(Scheduler { policy, flags, nice, priority, runtime, deadline, period })
}

/// SCHED_FLAG_* of `include/uapi/linux/sched.h`.
fn flag(name: oci::LinuxSchedulerFlag) -> u64 {
    use oci::LinuxSchedulerFlag as F;
    match name {
        F::SchedResetOnFork => 0x01,
        F::SchedFlagReclaim => 0x02,
        F::SchedFlagDLOverrun => 0x04,
        F::SchedFlagKeepPolicy => 0x08,
        F::SchedFlagKeepParams => 0x10,
        F::SchedFlagUtilClampMin => 0x20,
        F::SchedFlagUtilClampMax => 0x40,
    }
}
