//! Resource limits. Sizes of files have none: disks and shares are as large as they are.

use super::{JailError, doing};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of a machine without shares: those of vsock's 1,024 connections, and a few for each of the bus's devices.
const DESCRIPTORS: u64 = 4096;

/// Sets them. A share keeps a descriptor for each file that its guest knows of, so with `shares` their number stays as it is.
///
/// # Errors
/// When the kernel refuses, which lowering does not do.
pub fn set(shares: bool) -> Result<(), JailError> {
    // A core dump would hold the guest's memory.
    lower(Resource::Core, 0)?;
    if shares { Ok(()) } else { lower(Resource::Nofile, DESCRIPTORS) }
}

fn lower(resource: Resource, most: u64) -> Result<(), JailError> {
    // No limit is `None`.
    let lower = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    let Rlimit { current, maximum } = getrlimit(resource);
    setrlimit(resource, Rlimit { current: lower(current), maximum: lower(maximum) })
        .map_err(doing("lowering resource limits"))
}
