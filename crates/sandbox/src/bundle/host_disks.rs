//! Block devices of the host that a bundle names, looked up once before planning.
//!
//! ```text
//!   linux.devices: b MAJOR:MINOR ─┬─► /sys/dev/block/MAJOR:MINOR ─► /dev/NAME ─┬─► is it that device? ─► HostDisk
//!   source of a bind mount ───────┘   the path that the bundle gives ──────────┘
//! ```

use super::{SourceKind, Sources};
use oci_spec::runtime::{LinuxDeviceType, Spec};
use rustix::fs::makedev;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A block device that the host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDisk {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// A node of it, absolute.
    pub node: PathBuf,
    /// Nobody can write it, not even the host.
    pub readonly: bool,
}

/// Looks for every block device that `spec` names, each once. One without a node is left out.
pub fn host_disks(spec: &Spec, sources: &Sources) -> Vec<HostDisk> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let devices = devices.iter().filter(|device| device.typ() == LinuxDeviceType::B).filter_map(|device| {
        let number = |value: i64| u32::try_from(value).ok();
        Some((number(device.major())?, number(device.minor())?, device.path().as_path()))
    });
    let binds = sources.iter().filter_map(|(path, kind)| match kind {
        SourceKind::Block { major, minor } => Some((*major, *minor, path.as_path())),
        _ => None,
    });
    let mut found: Vec<HostDisk> = Vec::new();
    for (major, minor, path) in devices.chain(binds) {
        if !found.iter().any(|disk| (disk.major, disk.minor) == (major, minor)) {
            found.extend(look(major, minor, path));
        }
    }
    found
}

fn look(major: u32, minor: u32, path: &Path) -> Option<HostDisk> {
    let sysfs = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let read = |name: &str| std::fs::read_to_string(sysfs.join(name)).unwrap_or_default();
    let uevent = read("uevent");
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let candidates = name.map(|name| Path::new("/dev").join(name)).into_iter().chain([path.to_path_buf()]);
    let node = candidates.into_iter().find(|node| is_it(node, major, minor))?;
    Some(HostDisk { major, minor, node, readonly: read("ro").trim() == "1" })
}

fn is_it(node: &Path, major: u32, minor: u32) -> bool {
    node.is_absolute()
        && std::fs::metadata(node)
            .is_ok_and(|found| found.file_type().is_block_device() && found.rdev() == makedev(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{major, minor};

    fn spec(devices: &str) -> Spec {
        serde_json::from_str(&format!(r#"{{"ociVersion":"1.3.0","linux":{{"devices":{devices}}}}}"#)).unwrap()
    }

    #[test]
    fn what_the_host_does_not_have_is_left_out() {
        let spec = spec(
            r#"[{"path":"/dev/null","type":"b","major":4095,"minor":77},
                {"path":"relative","type":"b","major":4095,"minor":78},
                {"path":"/dev/null","type":"c","major":1,"minor":3}]"#,
        );
        assert_eq!(host_disks(&spec, &Sources::new()), []);
    }

    #[test]
    fn a_disk_is_found_by_its_number_once() {
        let nodes = std::fs::read_dir("/dev").unwrap().flatten().map(|entry| entry.path());
        let of = |path: PathBuf| {
            let found = std::fs::symlink_metadata(&path).ok().filter(|f| f.file_type().is_block_device())?;
            Some((path, major(found.rdev()), minor(found.rdev())))
        };
        // A host without any has none to find.
        let Some((node, major, minor)) = nodes.into_iter().find_map(of) else { return };
        let device = format!(r#"{{"path":"/dev/elsewhere","type":"b","major":{major},"minor":{minor}}}"#);
        let sources = Sources::from([(node.clone(), SourceKind::Block { major, minor })]);
        for found in
            [host_disks(&spec(&format!("[{device},{device}]")), &sources), host_disks(&spec("[]"), &sources)]
        {
            assert_eq!(found.len(), 1);
            assert!(is_it(&found[0].node, major, minor), "{found:?}");
            assert_eq!((found[0].major, found[0].minor), (major, minor));
        }
    }
}
