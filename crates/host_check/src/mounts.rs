//! Reads /proc/self/mountinfo: which file system is mounted where.

use crate::Root;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// One line of mountinfo, as far as anybody here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub id: u32,
    /// The mount in which the point is.
    pub parent: u32,
    pub point: PathBuf,
    pub read_only: bool,
    pub fs_type: String,
    pub super_options: Vec<String>,
}

/// All mounts this process can reach; none if the file cannot be read.
pub(crate) fn read(root: &Root) -> Vec<Mount> {
    reachable(root.read("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(parse_line).collect())
}

/// Without those that another mount hides: one in the same mount, at a directory above theirs, so made later.
fn reachable(mounts: Vec<Mount>) -> Vec<Mount> {
    // Hosts have thousands of mounts, most of them in one: no pair of them is compared.
    // The first mount of all is its own parent, and covers nothing of it.
    let covers = mounts.iter().filter(|m| m.id != m.parent);
    let places: HashSet<(u32, &Path)> = covers.map(|m| (m.parent, m.point.as_path())).collect();
    let is_hidden = |m: &&Mount| m.point.ancestors().skip(1).any(|above| places.contains(&(m.parent, above)));
    let mut inner: HashMap<u32, Vec<u32>> = HashMap::new();
    for mount in &mounts {
        inner.entry(mount.parent).or_default().push(mount.id);
    }
    let mut rest: Vec<u32> = mounts.iter().filter(is_hidden).map(|m| m.id).collect();
    let mut hidden = HashSet::new();
    // What is in a hidden one is hidden too.
    while let Some(id) = rest.pop() {
        if hidden.insert(id) {
            rest.extend(inner.get(&id).into_iter().flatten());
        }
    }
    mounts.into_iter().filter(|mount| !hidden.contains(&mount.id)).collect()
}

/// The mount that holds `path`: the last one listed with the longest mount point above it.
pub(crate) fn holding<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| Path::new(path).starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; the fields before `-` vary in number.
fn parse_line(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ');
    let (id, parent) = (front.next()?.parse().ok()?, front.next()?.parse().ok()?);
    let mut front = front.skip(2);
    let point = unescape(front.next()?);
    let read_only = front.next()?.split(',').any(|option| option == "ro");
    let mut back = back.split(' ');
    let fs_type = back.next()?.to_owned();
    let super_options = back.nth(1).unwrap_or("").split(',').map(str::to_owned).collect();
    Some(Mount { id, parent, point: point.into(), read_only, fs_type, super_options })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                plain.push(char::from(byte));
                rest = &after[3..];
            }
            _ => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_with_optional_fields_and_a_space() {
        let mount =
            parse_line(r"36 35 98:0 /m /a\040b ro,noatime shared:1 master:2 - ext4 /dev/root rw,errors=x")
                .unwrap();
        assert_eq!(mount.point, Path::new("/a b"));
        assert!(mount.read_only);
        assert_eq!((mount.fs_type.as_str(), mount.super_options.len()), ("ext4", 2));
    }

    #[test]
    fn the_longest_mount_point_holds_a_path_and_the_last_one_hides_the_others() {
        let mount = |point: &str, fs_type: &str| Mount {
            id: 0,
            parent: 0,
            point: point.into(),
            read_only: false,
            fs_type: fs_type.into(),
            super_options: Vec::new(),
        };
        let mounts =
            [mount("/", "ext4"), mount("/run", "ramfs"), mount("/run", "tmpfs"), mount("/runner", "xfs")];
        assert_eq!(holding(&mounts, "/run/x").unwrap().fs_type, "tmpfs");
        assert_eq!(holding(&mounts, "/etc").unwrap().fs_type, "ext4");
    }

    #[test]
    fn what_a_later_mount_hides_is_not_reachable() {
        let lines = [
            "20 1 8:1 / / rw - ext4 /dev/root rw",
            "21 20 0:1 / /run rw - tmpfs none rw",
            "22 21 0:2 / /run/groups rw - cgroup none rw,hugetlb",
            "23 22 0:3 / /run/groups/inner rw - tmpfs none rw",
            "24 21 0:4 / /run rw - tmpfs none rw",
            "25 24 0:5 / /run/groups rw - cgroup2 none rw",
            "26 20 0:6 / /runner rw - tmpfs none rw",
        ];
        let mounts = reachable(lines.iter().filter_map(|line| parse_line(line)).collect());
        assert_eq!(mounts.iter().map(|m| m.id).collect::<Vec<_>>(), [20, 21, 24, 25, 26]);
    }

    #[test]
    fn a_root_that_is_its_own_parent_hides_nothing() {
        // A host that runs from its initramfs.
        let lines = [
            "1 1 0:2 / / rw - rootfs rootfs rw",
            "21 1 0:3 / /sys rw - sysfs none rw",
            "22 21 0:4 / /sys/fs/cgroup rw - cgroup2 none rw",
        ];
        let mounts = reachable(lines.iter().filter_map(|line| parse_line(line)).collect());
        assert_eq!(mounts.iter().map(|m| m.id).collect::<Vec<_>>(), [1, 21, 22]);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".*") {
            let _ = parse_line(&line);
            let _ = unescape(&line);
        }
    }
}
