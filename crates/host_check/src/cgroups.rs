//! How control groups are mounted, out of mountinfo.

use crate::facts::Cgroups;
use crate::mounts::Mount;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Controllers of the first version, as they stand in mount options (kernel: Documentation/admin-guide/cgroup-v1).
const V1_CONTROLLERS: [&str; 13] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// One unified hierarchy, unless any controller is bound to a hierarchy of the first version: what is bound there
/// cannot be used in the unified one, so a hybrid host counts as version 1.
pub(crate) fn layout(mounts: &[Mount]) -> Cgroups {
    let v1 = v1_mounts(mounts);
    if v1.keys().any(|name| V1_CONTROLLERS.contains(&name.as_str())) {
        return Cgroups::V1(v1);
    }
    let mut unified = mounts.iter().filter(|mount| mount.fs_type == "cgroup2").peekable();
    if let Some(mount) = unified.clone().find(|mount| !mount.read_only) {
        return Cgroups::V2(mount.point.clone());
    }
    let any = unified.peek().is_some() || mounts.iter().any(|mount| mount.fs_type == "cgroup");
    Cgroups::None(if any { "mounted read-only or without controllers" } else { "not mounted" }.to_owned())
}

/// Mount points by controller, named hierarchies as `name=x`; the first mount of a controller counts.
fn v1_mounts(mounts: &[Mount]) -> BTreeMap<String, PathBuf> {
    let mut points = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| mount.fs_type == "cgroup" && !mount.read_only) {
        for option in &mount.super_options {
            if V1_CONTROLLERS.contains(&option.as_str()) || option.starts_with("name=") {
                points.entry(option.clone()).or_insert_with(|| mount.point.clone());
            }
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, fs_type: &str, read_only: bool, options: &str) -> Mount {
        Mount {
            id: 0,
            parent: 0,
            point: point.into(),
            read_only,
            fs_type: fs_type.into(),
            super_options: options.split(',').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn unified() {
        let mounts =
            [mount("/", "ext4", false, "rw"), mount("/sys/fs/cgroup", "cgroup2", false, "rw,nsdelegate")];
        assert_eq!(layout(&mounts), Cgroups::V2("/sys/fs/cgroup".into()));
    }

    #[test]
    fn unified_beside_a_named_hierarchy_only() {
        let mounts = [
            mount("/sys/fs/cgroup/systemd", "cgroup", false, "rw,xattr,name=systemd"),
            mount("/sys/fs/cgroup/unified", "cgroup2", false, "rw"),
        ];
        assert_eq!(layout(&mounts), Cgroups::V2("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn hybrid_counts_as_version_1_and_joined_controllers_share_a_mount() {
        let mounts = [
            mount("/c/unified", "cgroup2", false, "rw"),
            mount("/c/systemd", "cgroup", false, "rw,name=systemd"),
            mount("/c/cpu,cpuacct", "cgroup", false, "rw,cpu,cpuacct"),
            mount("/c/memory", "cgroup", false, "rw,memory"),
            mount("/c/other", "cgroup", false, "rw,memory"),
        ];
        let Cgroups::V1(points) = layout(&mounts) else { panic!("not version 1") };
        assert_eq!(points["cpu"], points["cpuacct"]);
        assert_eq!(points["memory"], PathBuf::from("/c/memory"));
        assert_eq!(points["name=systemd"], PathBuf::from("/c/systemd"));
        assert_eq!(points.len(), 4);
    }

    #[test]
    fn none_says_why() {
        let Cgroups::None(why) = layout(&[mount("/sys/fs/cgroup", "cgroup2", true, "rw")]) else { panic!() };
        assert!(why.contains("read-only"), "{why}");
        let Cgroups::None(why) = layout(&[mount("/", "ext4", false, "rw")]) else { panic!() };
        assert!(why.contains("not mounted"), "{why}");
    }
}
