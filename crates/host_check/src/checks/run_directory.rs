//! /run, where the state of containers is kept.

use super::Context;
use crate::mounts;
use crate::report::Finding;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "the state of containers is kept in /run and must be gone after a reboot, as the containers are";
    let mounts = mounts::read(context.root);
    if !context.root.path("/run").is_dir() {
        return Finding::fail("/run does not exist", why, "mkdir /run && mount -t tmpfs tmpfs /run");
    }
    match mounts::holding(&mounts, "/run") {
        Some(mount) if mount.read_only => {
            Finding::fail("/run is read-only", why, "mount -o remount,rw /run, or give --root another directory")
        }
        Some(mount) if mount.fs_type == "tmpfs" => Finding::pass("/run is a writable tmpfs", why),
        Some(mount) => {
            Finding::warn(format!("/run is on {}, which outlives a reboot", mount.fs_type), why, "mount -t tmpfs tmpfs /run")
        }
        None => Finding::warn("the file system of /run is not known", why, "mount /proc"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn tmpfs_disk_read_only_missing() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n");
        assert!(on(&host, check).what.contains("ext4"));
        host.write("/proc/self/mountinfo", "1 0 8:1 / / ro - ext4 /dev/sda1 rw\n");
        assert_eq!(on(&host, check).level, Level::Fail);
        host.remove("/run");
        assert!(on(&host, check).what.contains("does not exist"));
    }
}
