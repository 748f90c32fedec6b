//! Ranges of user and group ids: of the container's user namespace, and of id-mapped mounts.

use super::{Inputs, PlanError};
use guest_protocol::message::{IdMap, UserNamespace};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType};

/// Most ranges of one map (`UID_GID_MAP_MAX_EXTENTS` of `include/linux/user_namespace.h`).
const MAX_RANGES: usize = 340;

/// Maps of the container's user namespace, if it has one.
pub(super) fn container_maps(inputs: &Inputs) -> Result<Option<UserNamespace>, PlanError> {
    let Some(linux) = inputs.bundle.spec.linux() else { return Ok(None) };
    let uid = linux.uid_mappings().as_deref().unwrap_or_default();
    let gid = linux.gid_mappings().as_deref().unwrap_or_default();
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    if !namespaces.iter().any(|ns| ns.typ() == LinuxNamespaceType::User) {
        if uid.is_empty() && gid.is_empty() {
            return Ok(None);
        }
        let problem = "maps are given, but no user namespace; add {\"type\": \"user\"} to linux.namespaces";
        return Err(PlanError::invalid("linux.uidMappings", problem));
    }
    if uid.is_empty() || gid.is_empty() {
        let problem = "a user namespace needs linux.uidMappings and linux.gidMappings";
        return Err(PlanError::invalid("linux.namespaces", problem));
    }
    maps("linux", uid, gid).map(Some)
}

/// Checks and converts the maps found at `path`.
pub(super) fn maps(
    path: &str,
    uid: &[LinuxIdMapping],
    gid: &[LinuxIdMapping],
) -> Result<UserNamespace, PlanError> {
    Ok(UserNamespace {
        uid_map: ranges(&format!("{path}.uidMappings"), uid)?,
        gid_map: ranges(&format!("{path}.gidMappings"), gid)?,
    })
}

fn ranges(path: &str, mappings: &[LinuxIdMapping]) -> Result<Vec<IdMap>, PlanError> {
    if mappings.len() > MAX_RANGES {
        return Err(PlanError::invalid(
            path,
            format!("{} ranges are more than the kernel's {MAX_RANGES}", mappings.len()),
        ));
    }
    let mut ranges: Vec<IdMap> = Vec::with_capacity(mappings.len());
    for (index, m) in mappings.iter().enumerate() {
        let range = IdMap { inside: m.container_id(), outside: m.host_id(), count: m.size() };
        let fits = |first: u32| first.checked_add(range.count).is_some();
        if range.count == 0 || !fits(range.inside) || !fits(range.outside) {
            return Err(PlanError::invalid(
                format!("{path}[{index}].size"),
                "must be at least 1 and end below 2^32",
            ));
        }
        let meet = |a: u32, a_count: u32, b: u32| a < b + range.count && b < a + a_count;
        if ranges
            .iter()
            .any(|r| meet(r.inside, r.count, range.inside) || meet(r.outside, r.count, range.outside))
        {
            return Err(PlanError::invalid(format!("{path}[{index}]"), "overlaps another range"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}
