//! Reads /proc/self/mountinfo: which file system is mounted where.

use crate::Root;
use std::path::{Path, PathBuf};

/// One line of mountinfo, as far as anybody here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub point: PathBuf,
    pub read_only: bool,
    pub fs_type: String,
    pub super_options: Vec<String>,
}

/// All mounts this process sees; none if the file cannot be read.
pub(crate) fn read(root: &Root) -> Vec<Mount> {
    root.read("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(parse_line).collect()
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
    let mut front = front.split(' ').skip(4);
    let point = unescape(front.next()?);
    let read_only = front.next()?.split(',').any(|option| option == "ro");
    let mut back = back.split(' ');
    let fs_type = back.next()?.to_owned();
    let super_options = back.nth(1).unwrap_or("").split(',').map(str::to_owned).collect();
    Some(Mount { point: point.into(), read_only, fs_type, super_options })
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

    proptest! {
        #[test]
        fn no_line_panics(line in ".*") {
            let _ = parse_line(&line);
            let _ = unescape(&line);
        }
    }
}
