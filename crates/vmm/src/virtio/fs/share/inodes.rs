//! The nodes that the guest knows, each pinned by an O_PATH descriptor or found again by its place.
//!
//! ```text
//!   node id ─► Inode ─┬─ fd: O_PATH, pins the very object whatever its name becomes
//!                     └─ place: (parent node, name), from the last lookup; None once it was unlinked
//!   more descriptors than the budget ─► the oldest are closed ─► opened again by place, and compared with the key
//! ```
//!
//! Only directory descriptors of this table are ever used as starting points, with one name at a time and symbolic links not followed,
//! so no request reaches anything outside of the shared directory.

use crate::virtio::fs::wire::ROOT;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Directories that may lie between a node and the next one with a descriptor.
const MAX_DEPTH: u32 = 512;

/// Most nodes that the guest may know: it needs about 1 KiB for each itself, we a quarter of that.
const MAX_NODES: usize = 1 << 20;

/// Attributes asked of the host.
const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// What makes two names the same file. A number is not used again while its object is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

impl Key {
    fn of(stat: &Statx) -> Self {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        Self { mount: stat.stx_mnt_id, device, inode: stat.stx_ino }
    }
}

struct Inode {
    key: Key,
    kind: FileType,
    lookups: u64,
    fd: Option<Arc<OwnedFd>>,
    place: Option<(u64, CString)>,
}

struct Table {
    inodes: BTreeMap<u64, Inode>,
    ids: HashMap<Key, u64>,
    /// Nodes with a descriptor, oldest first. May name nodes that have none any more.
    opened: VecDeque<u64>,
    open: usize,
    next: u64,
}

/// All nodes.
pub struct Inodes {
    table: Mutex<Table>,
    root: Arc<OwnedFd>,
    root_mount: u64,
    budget: usize,
}

impl Inodes {
    /// Begins with the shared directory and keeps at most about `budget` descriptors.
    ///
    /// # Errors
    /// When `root` is no directory.
    pub fn new(root: OwnedFd, budget: usize) -> Result<Self, Errno> {
        let stat = stat(&root)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let table = Table {
            inodes: BTreeMap::new(),
            ids: HashMap::new(),
            opened: VecDeque::new(),
            open: 0,
            next: ROOT + 1,
        };
        let inodes =
            Self { table: Mutex::new(table), root: Arc::new(root), root_mount: stat.stx_mnt_id, budget };
        inodes.clear_to(&stat);
        Ok(inodes)
    }

    fn clear_to(&self, root: &Statx) {
        let (key, root) = (Key::of(root), Some(Arc::clone(&self.root)));
        let inode = Inode { key, kind: FileType::Directory, lookups: 1, fd: root, place: None };
        let mut table = self.lock();
        (table.inodes, table.opened, table.open) = (BTreeMap::from([(ROOT, inode)]), VecDeque::new(), 0);
        table.ids = HashMap::from([(key, ROOT)]);
    }

    /// Forgets all nodes but the root.
    pub fn clear(&self) {
        if let Ok(stat) = stat(&self.root) {
            self.clear_to(&stat);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is whole before the lock is given back.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's O_PATH descriptor and type.
    ///
    /// # Errors
    /// ESTALE when the node is unknown, or is not where it was and its descriptor had to be closed.
    pub fn open(&self, id: u64) -> Result<(Arc<OwnedFd>, FileType), Errno> {
        self.open_below(id, 0)
    }

    fn open_below(&self, id: u64, depth: u32) -> Result<(Arc<OwnedFd>, FileType), Errno> {
        let (key, kind, (parent, name)) = {
            let table = self.lock();
            let inode = table.inodes.get(&id).ok_or(Errno::STALE)?;
            if let Some(fd) = &inode.fd {
                return Ok((Arc::clone(fd), inode.kind));
            }
            (inode.key, inode.kind, inode.place.clone().ok_or(Errno::STALE)?)
        };
        if depth == MAX_DEPTH {
            return Err(Errno::STALE);
        }
        let (directory, _) = self.open_below(parent, depth + 1)?;
        let fd = Arc::new(open_name(&directory, &name).map_err(|_| Errno::STALE)?);
        let found = stat(&fd)?;
        // A file system gives the number of a removed file away again, perhaps to a FIFO or a device.
        if Key::of(&found) != key || FileType::from_raw_mode(found.stx_mode.into()) != kind {
            return Err(Errno::STALE);
        }
        self.lock().set_fd(id, Arc::clone(&fd), self.budget);
        Ok((fd, kind))
    }

    /// A directory's descriptor.
    pub fn directory(&self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        let (fd, kind) = self.open(id)?;
        if kind == FileType::Directory { Ok(fd) } else { Err(Errno::NOTDIR) }
    }

    /// Looks a name up and counts it as known to the guest once more.
    pub fn look_up(&self, parent: u64, name: &CStr) -> Result<(u64, Statx), Errno> {
        let fd = open_name(&*self.directory(parent)?, name)?;
        self.remember(fd, Some((parent, name.to_owned())))
    }

    /// Counts an object as known to the guest once more. Without a place it stays open for as long as the guest knows it.
    pub fn remember(&self, fd: OwnedFd, place: Option<(u64, CString)>) -> Result<(u64, Statx), Errno> {
        let stat = stat(&fd)?;
        let (key, kind) = (Key::of(&stat), FileType::from_raw_mode(stat.stx_mode.into()));
        let mut table = self.lock();
        // A known node of another type is one that was closed, and whose number has been used again.
        let known =
            table.ids.get(&key).filter(|id| table.inodes.get(id).is_some_and(|inode| inode.kind == kind));
        let id = match known {
            Some(id) => *id,
            // Above the budget all descriptors are those of removed objects: a guest that forgets none of them gets no more.
            None if table.open > self.budget || table.inodes.len() >= MAX_NODES => return Err(Errno::NFILE),
            None => {
                let id = table.next;
                table.next += 1;
                table.inodes.insert(id, Inode { key, kind, lookups: 0, fd: None, place: None });
                table.ids.insert(key, id);
                id
            }
        };
        let Some(inode) = table.inodes.get_mut(&id) else { return Err(Errno::STALE) };
        inode.lookups = inode.lookups.saturating_add(1);
        if id != ROOT && place.is_some() {
            inode.place = place;
        }
        table.set_fd(id, Arc::new(fd), self.budget);
        Ok((id, stat))
    }

    /// The guest has forgotten `count` lookups of a node.
    pub fn forget(&self, id: u64, count: u64) {
        let mut table = self.lock();
        let Some(inode) = table.inodes.get_mut(&id).filter(|_| id != ROOT) else { return };
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups == 0 {
            let key = inode.key;
            table.close(id);
            table.inodes.remove(&id);
            if table.ids.get(&key) == Some(&id) {
                table.ids.remove(&key);
            }
        }
    }

    /// `name` is about to go from `parent`. What the guest still knows by it must not depend on that name.
    pub fn before_unlink(&self, parent: u64, name: &CStr) {
        let found = self.directory(parent).and_then(|directory| open_name(&*directory, name));
        let Some((fd, stat)) = found.ok().and_then(|fd| stat(&fd).ok().map(|stat| (fd, stat))) else {
            return;
        };
        let mut table = self.lock();
        let Some(id) = table.ids.get(&Key::of(&stat)).copied() else { return };
        let Some(inode) = table.inodes.get_mut(&id) else { return };
        if inode.place.as_ref().is_some_and(|(node, old)| *node == parent && **old == *name) {
            inode.place = None;
            if table.open <= self.budget {
                table.set_fd(id, Arc::new(fd), self.budget);
            }
        }
    }

    /// Whatever has the name now is there and nowhere else, as far as the guest knows.
    pub fn after_rename(&self, parent: u64, name: &CStr) {
        let found = self.directory(parent).and_then(|directory| open_name(&*directory, name));
        let Ok(stat) = found.and_then(|fd| stat(&fd)) else { return };
        let mut table = self.lock();
        let id = table.ids.get(&Key::of(&stat)).copied().filter(|id| *id != ROOT);
        if let Some(inode) = id.and_then(|id| table.inodes.get_mut(&id)) {
            inode.place = Some((parent, name.to_owned()));
        }
    }

    /// Whether a node is where another mount begins below the shared directory. What lies deeper in that mount is not: the guest
    /// mounts at each such node, and a mount point can be neither moved nor removed.
    pub fn is_submount(&self, stat: &Statx) -> bool {
        stat.stx_mnt_id != self.root_mount && stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    }
}

impl Table {
    fn set_fd(&mut self, id: u64, fd: Arc<OwnedFd>, budget: usize) {
        let Some(inode) = self.inodes.get_mut(&id).filter(|inode| inode.fd.is_none()) else { return };
        inode.fd = Some(fd);
        self.open += 1;
        self.opened.push_back(id);
        // One look at each: those without a place have to stay.
        for _ in 0..self.opened.len() {
            if self.open <= budget {
                break;
            }
            let Some(oldest) = self.opened.pop_front() else { break };
            match self.inodes.get(&oldest) {
                Some(inode) if inode.place.is_none() && inode.fd.is_some() => self.opened.push_back(oldest),
                Some(_) if oldest == id => self.opened.push_back(oldest),
                _ => self.close(oldest),
            }
        }
        if self.opened.len() > 2 * self.open + 64 {
            let inodes = &self.inodes;
            self.opened.retain(|id| inodes.get(id).is_some_and(|inode| inode.fd.is_some()));
        }
    }

    fn close(&mut self, id: u64) {
        if self.inodes.get_mut(&id).is_some_and(|inode| inode.fd.take().is_some()) {
            self.open -= 1;
        }
    }
}

/// One name in a directory, itself and not where it points.
pub fn open_name(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(
        directory,
        name,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// An object's attributes.
pub fn stat(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(inodes: &Inodes) -> (usize, usize, usize) {
        let table = inodes.lock();
        assert_eq!(
            table.open,
            table.inodes.iter().filter(|(id, inode)| **id != ROOT && inode.fd.is_some()).count()
        );
        (table.inodes.len(), table.ids.len(), table.open)
    }

    #[test]
    fn descriptors_stay_within_the_budget_and_forgetting_frees() {
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<CString> = (0..100).map(|number| CString::new(number.to_string()).unwrap()).collect();
        for name in &names {
            std::fs::write(directory.path().join(name.to_str().unwrap()), "").unwrap();
        }
        let inodes = Inodes::new(std::fs::File::open(directory.path()).unwrap().into(), 10).unwrap();
        let mut known = Vec::new();
        for _ in 0..20 {
            known.extend(names.iter().map(|name| inodes.look_up(ROOT, name).unwrap().0));
        }
        let (all, ids, open) = count(&inodes);
        assert_eq!((all, ids), (101, 101));
        assert!(open <= 11, "{open} descriptors");
        assert!(inodes.lock().opened.len() < 200);
        // Removed ones stay open, for there is no other way to them; but not without end.
        names[..30].iter().for_each(|name| inodes.before_unlink(ROOT, name));
        let open = count(&inodes).2;
        assert!((10..=12).contains(&open), "{open} descriptors");
        std::fs::write(directory.path().join("new"), "").unwrap();
        assert_eq!(inodes.look_up(ROOT, c"new").unwrap_err(), Errno::NFILE);
        known.iter().for_each(|id| inodes.forget(*id, 1));
        assert_eq!(count(&inodes), (1, 1, 0));
        inodes.open(ROOT).unwrap();
        inodes.clear();
        assert_eq!(count(&inodes), (1, 1, 0));
    }
}
