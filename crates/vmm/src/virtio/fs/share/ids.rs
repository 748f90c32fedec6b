//! Translates owners: the guest's user and group ids to the host's and back.

/// The host's user and group that a guest is shown for an owner that it has no name for (`fs.overflowuid`).
const NOBODY: u32 = 65534;

/// `count` ids from `guest` on are `count` ids from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id in the guest.
    pub guest: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// Which id is which. Empty: each is itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Of users.
    pub users: Vec<Range>,
    /// Of groups.
    pub groups: Vec<Range>,
}

impl IdMap {
    /// Whether every id is itself.
    pub fn is_identity(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// The host's id; `None` when the guest's id stands for nobody there.
pub fn to_host(map: &[Range], id: u32) -> Option<u32> {
    translate(map, id, |range| (range.guest, range.host))
}

/// The guest's id.
pub fn to_guest(map: &[Range], id: u32) -> u32 {
    translate(map, id, |range| (range.host, range.guest)).unwrap_or(NOBODY)
}

fn translate(map: &[Range], id: u32, ends: impl Fn(&Range) -> (u32, u32)) -> Option<u32> {
    if map.is_empty() {
        return Some(id);
    }
    map.iter().find_map(|range| {
        let (from, to) = ends(range);
        let at = id.checked_sub(from).filter(|at| *at < range.count)?;
        to.checked_add(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let map =
            [Range { guest: 0, host: 1000, count: 1 }, Range { guest: 1, host: 100_000, count: 65_535 }];
        assert_eq!(
            (to_host(&map, 0), to_host(&map, 1), to_host(&map, 65_536)),
            (Some(1000), Some(100_000), None)
        );
        assert_eq!((to_guest(&map, 1000), to_guest(&map, 100_005), to_guest(&map, 0)), (0, 6, NOBODY));
        assert_eq!((to_host(&[], 7), to_guest(&[], 7)), (Some(7), 7));
        assert_eq!(to_host(&[Range { guest: 0, host: u32::MAX, count: 9 }], 3), None);
    }
}
