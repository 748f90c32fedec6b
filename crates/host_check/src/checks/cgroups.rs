//! Control groups: machines are accounted and limited by them, and engines read a container's statistics there.

use super::Context;
use crate::facts::Cgroups;
use crate::report::Finding;

/// Controllers that limits and statistics of a container need.
const WANTED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

const FIX: &str = "mount the control groups as your distribution does (systemd does it at boot)";

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "limits on a machine and an engine's statistics use control groups";
    let (version, controllers) = match &context.facts.cgroups {
        Cgroups::None(reason) => return Finding::warn(format!("no control groups: {reason}"), why, FIX),
        Cgroups::V1(points) => ("version 1", points.keys().cloned().collect()),
        Cgroups::V2(point) => ("version 2", unified_controllers(context, point)),
    };
    let missing: Vec<_> = WANTED.into_iter().filter(|name| !controllers.iter().any(|have| have == name)).collect();
    if missing.is_empty() {
        return Finding::pass(format!("{version} with {}", WANTED.join(", ")), why);
    }
    Finding::warn(
        format!("{version} without {}", missing.join(", ")),
        why,
        "enable these controllers: cgroup_enable=memory on the kernel command line, or cgroup.subtree_control of the parent",
    )
}

fn unified_controllers(context: &Context<'_>, point: &std::path::Path) -> Vec<String> {
    let list = context.root.read(&point.join("cgroup.controllers").to_string_lossy()).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn controllers_of_version_2() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/sys/fs/cgroup/cgroup.controllers", "cpu cpuset pids\n");
        let finding = on(&host, check);
        assert_eq!((finding.level, finding.what.as_str()), (Level::Warn, "version 2 without memory"));
    }

    #[test]
    fn controllers_of_version_1() {
        let host = FakeHost::new();
        let line = |name: &str| format!("3 1 0:6 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n");
        host.write("/proc/self/mountinfo", &["cpu", "cpuset", "memory", "pids"].map(line).concat());
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/proc/self/mountinfo", &["cpu", "memory"].map(line).concat());
        assert_eq!(on(&host, check).what, "version 1 without cpuset, pids");
        host.write("/proc/self/mountinfo", "");
        assert_eq!(on(&host, check).level, Level::Warn);
    }
}
