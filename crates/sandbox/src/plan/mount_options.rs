//! Mount options by name: runc's whole table, as flags of mount(2), mount_setattr(2) and words of our own.

use libc::*;

/// What a list of options means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// MS_* flags of mount(2), without propagation.
    pub flags: u64,
    /// Propagation changes, in order.
    pub propagation: Vec<u64>,
    /// Attributes for the whole tree of mounts: MOUNT_ATTR_* to set and to clear.
    pub recursive: Option<(u64, u64)>,
    /// `tmpcopyup`
    pub copy_up: bool,
    /// `idmap` or `ridmap`: id-mapped, and whether for the whole tree.
    pub id_map: Option<bool>,
    /// Everything else, for the file system.
    pub data: Vec<String>,
}

/// A flag of mount(2): name, whether it clears, bits.
const FLAGS: [(&str, bool, u64); 35] = [
    ("async", true, MS_SYNCHRONOUS),
    ("atime", true, MS_NOATIME),
    ("bind", false, MS_BIND),
    ("defaults", false, 0),
    ("dev", true, MS_NODEV),
    ("diratime", true, MS_NODIRATIME),
    ("dirsync", false, MS_DIRSYNC),
    ("exec", true, MS_NOEXEC),
    ("iversion", false, MS_I_VERSION),
    ("lazytime", false, MS_LAZYTIME),
    ("loud", true, MS_SILENT),
    ("mand", false, MS_MANDLOCK),
    ("noatime", false, MS_NOATIME),
    ("nodev", false, MS_NODEV),
    ("nodiratime", false, MS_NODIRATIME),
    ("noexec", false, MS_NOEXEC),
    ("noiversion", true, MS_I_VERSION),
    ("nolazytime", true, MS_LAZYTIME),
    ("nomand", true, MS_MANDLOCK),
    ("norelatime", true, MS_RELATIME),
    ("nostrictatime", true, MS_STRICTATIME),
    ("nosuid", false, MS_NOSUID),
    ("nosymfollow", false, MS_NOSYMFOLLOW),
    ("rbind", false, MS_BIND | MS_REC),
    ("relatime", false, MS_RELATIME),
    ("remount", false, MS_REMOUNT),
    ("ro", false, MS_RDONLY),
    ("rw", true, MS_RDONLY),
    ("silent", false, MS_SILENT),
    ("strictatime", false, MS_STRICTATIME),
    ("suid", true, MS_NOSUID),
    ("sync", false, MS_SYNCHRONOUS),
    ("symfollow", true, MS_NOSYMFOLLOW),
    // Written by some engines for older kernels; mean nothing to a mount(2) of today.
    ("auto", false, 0),
    ("noauto", false, 0),
];

/// `MS_NOSYMFOLLOW` of `include/uapi/linux/mount.h`, which libc does not have.
const MS_NOSYMFOLLOW: u64 = 256;

const PROPAGATION: [(&str, u64); 8] = [
    ("private", MS_PRIVATE),
    ("shared", MS_SHARED),
    ("slave", MS_SLAVE),
    ("unbindable", MS_UNBINDABLE),
    ("rprivate", MS_PRIVATE | MS_REC),
    ("rshared", MS_SHARED | MS_REC),
    ("rslave", MS_SLAVE | MS_REC),
    ("runbindable", MS_UNBINDABLE | MS_REC),
];

// MOUNT_ATTR_* of `include/uapi/linux/mount.h`.
const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
/// The field of access time modes; the kernel wants it cleared whole when one of them is set.
const ATIME: u64 = 0x70;
const RELATIME: u64 = 0;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// An attribute for mount_setattr(2) with AT_RECURSIVE: name, bits to set, bits to clear.
const RECURSIVE: [(&str, u64, u64); 18] = [
    ("rro", RDONLY, 0),
    ("rrw", 0, RDONLY),
    ("rnosuid", NOSUID, 0),
    ("rsuid", 0, NOSUID),
    ("rnodev", NODEV, 0),
    ("rdev", 0, NODEV),
    ("rnoexec", NOEXEC, 0),
    ("rexec", 0, NOEXEC),
    ("rnodiratime", NODIRATIME, 0),
    ("rdiratime", 0, NODIRATIME),
    ("rrelatime", RELATIME, ATIME),
    ("rnorelatime", 0, ATIME),
    ("rnoatime", NOATIME, ATIME),
    ("ratime", 0, ATIME),
    ("rstrictatime", STRICTATIME, ATIME),
    ("rnostrictatime", 0, ATIME),
    ("rnosymfollow", NOSYMFOLLOW, 0),
    ("rsymfollow", 0, NOSYMFOLLOW),
];

/// The propagation flag of this name.
pub(super) fn propagation_of(name: &str) -> Option<u64> {
    PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag)
}

/// Every option that is known by name; for `cor features`.
pub fn known_options() -> Vec<&'static str> {
    let flags = FLAGS.iter().map(|(name, ..)| *name);
    let names = flags
        .chain(PROPAGATION.iter().map(|(name, _)| *name))
        .chain(RECURSIVE.iter().map(|(name, ..)| *name));
    let mut names: Vec<_> = names.chain(["tmpcopyup", "idmap", "ridmap"]).collect();
    names.sort_unstable();
    names
}

/// Reads options in order: a later one wins over an earlier one that it contradicts.
pub(super) fn parse(options: &[String]) -> MountOptions {
    let mut result = MountOptions::default();
    for option in options {
        let name = option.as_str();
        if let Some((_, clear, bits)) = FLAGS.iter().find(|(known, ..)| *known == name) {
            if *clear { result.flags &= !bits } else { result.flags |= bits }
        } else if let Some(flag) = propagation_of(name) {
            result.propagation.push(flag);
        } else if let Some((_, set, clear)) = RECURSIVE.iter().find(|(known, ..)| *known == name) {
            let (all_set, all_clear) = result.recursive.unwrap_or_default();
            let kept_set = all_set & !clear & !set;
            // A bit may stand in both: the kernel clears first, and the access time modes need exactly that.
            result.recursive = Some((kept_set | set, (all_clear & !set) | clear));
        } else {
            match name {
                "tmpcopyup" => result.copy_up = true,
                "idmap" => result.id_map = Some(false),
                "ridmap" => result.id_map = Some(true),
                "" => {}
                _ => result.data.push(option.clone()),
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(options: &str) -> MountOptions {
        parse(&options.split(',').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn later_options_win() {
        assert_eq!(parsed("ro,rw").flags, 0);
        assert_eq!(parsed("rw,ro,nosuid").flags, MS_RDONLY | MS_NOSUID);
        assert_eq!(parsed("rro,rrw").recursive, Some((0, RDONLY)));
        assert_eq!(parsed("rrw,rro").recursive, Some((RDONLY, 0)));
    }

    #[test]
    fn access_time_modes_clear_their_whole_field() {
        assert_eq!(parsed("rnoatime").recursive, Some((NOATIME, ATIME)));
        assert_eq!(parsed("rnoatime,rstrictatime").recursive, Some((STRICTATIME, ATIME)));
        assert_eq!(parsed("rnoatime,ratime").recursive, Some((0, ATIME)));
        assert_eq!(parsed("rnoatime,rro").recursive, Some((NOATIME | RDONLY, ATIME)));
    }

    #[test]
    fn words_and_data_are_told_apart() {
        let options = parsed("tmpcopyup,ridmap,rslave,private,mode=755,size=1k,,newinstance");
        assert!(options.copy_up);
        assert_eq!(options.id_map, Some(true));
        assert_eq!(options.propagation, [MS_SLAVE | MS_REC, MS_PRIVATE]);
        assert_eq!(options.data, ["mode=755", "size=1k", "newinstance"]);
    }

    #[test]
    fn no_name_is_in_two_tables() {
        let names = known_options();
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(names, unique);
    }

    proptest! {
        #[test]
        fn a_set_never_asks_for_half_of_the_access_time_field(
            picks in prop::collection::vec(prop::sample::select(known_options()), 0..12)
        ) {
            let options = parse(&picks.iter().map(|p| p.to_string()).collect::<Vec<_>>());
            if let Some((set, clear)) = options.recursive {
                prop_assert!(clear & ATIME == 0 || clear & ATIME == ATIME);
                prop_assert!(set & ATIME == 0 || clear & ATIME == ATIME);
                prop_assert_eq!(set & clear & !ATIME, 0);
            }
        }
    }
}
