//! Devices as the event loop sees them: things that wait for files.

use super::{Waker, token};
use crate::bus::lock;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The driver has kicked this queue.
    Kick(u16),
    /// The file with this token of the device.
    File(u64),
}

/// A file that a source waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The file.
    pub fd: RawFd,
    /// What it means.
    pub ready: Ready,
    /// Wake for reading.
    pub readable: bool,
    /// Wake for writing.
    pub writable: bool,
}

/// Something that waits for files.
pub trait Source: Send {
    /// All files that it waits for now.
    fn interests(&self) -> Vec<Interest>;

    /// One of them is ready.
    fn ready(&mut self, ready: Ready);
}

/// Tells the loop that a source has changed.
#[derive(Debug, Clone)]
pub struct SourceHandle {
    waker: Waker,
    index: usize,
}

impl SourceHandle {
    /// Lets the loop ask the source again what it waits for.
    pub fn changed(&self) {
        self.waker.dirty.fetch_or(1 << self.index, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// A raw descriptor that is known to be open, or whose closing is no harm: epoll refuses it.
pub(super) struct Raw(pub RawFd);

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self.0)
    }
}

#[expect(unsafe_code, reason = "descriptors of devices are plain numbers in their contract")]
fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used for epoll_ctl only, which checks the number; -1, the one value that BorrowedFd forbids, never gets here
    // because `Entry::refresh` drops negative ones.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

struct Entry {
    source: Arc<Mutex<dyn Source>>,
    watched: Vec<Interest>,
}

/// Most sources: one bit each.
const MAX_SOURCES: usize = 64;

/// All sources.
#[derive(Default)]
pub(super) struct Sources {
    entries: Vec<Option<Entry>>,
    suspended: bool,
}

impl Sources {
    /// # Panics
    /// When there are 64 already; a bus has places for fewer.
    pub(super) fn add(&mut self, source: Arc<Mutex<dyn Source>>, waker: &Waker) -> SourceHandle {
        let index = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        assert!(index < MAX_SOURCES, "too many sources");
        if index == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[index] = Some(Entry { source, watched: Vec::new() });
        SourceHandle { waker: waker.clone(), index }
    }

    /// Forgets a source. A device behind it that is still called by others may mark the next one in its place, which does no harm.
    pub(super) fn remove(&mut self, epoll: &OwnedFd, handle: &SourceHandle) {
        if let Some(mut entry) = self.entries.get_mut(handle.index).and_then(Option::take) {
            entry.refresh(epoll, handle.index, Vec::new());
        }
    }

    /// Watches nothing any more, or what the sources want then.
    pub(super) fn set_suspended(&mut self, epoll: &OwnedFd, waker: &Waker, suspended: bool) {
        self.suspended = suspended;
        if suspended {
            for (index, entry) in self.entries.iter_mut().enumerate() {
                entry.iter_mut().for_each(|entry| entry.refresh(epoll, index, Vec::new()));
            }
        } else {
            waker.dirty.store(u64::MAX, Ordering::Release);
            self.refresh(epoll, waker);
        }
    }

    /// Asks all sources that are marked.
    pub(super) fn refresh(&mut self, epoll: &OwnedFd, waker: &Waker) {
        if self.suspended {
            return;
        }
        let mut dirty = waker.dirty.swap(0, Ordering::AcqRel);
        while dirty != 0 {
            let index = dirty.trailing_zeros() as usize;
            dirty &= dirty - 1;
            if let Some(Some(entry)) = self.entries.get_mut(index) {
                let wanted = lock(&entry.source).interests();
                entry.refresh(epoll, index, wanted);
            }
        }
    }

    /// An event of the source and slot that `token` names.
    pub(super) fn handle(&mut self, epoll: &OwnedFd, token: u64, _flags: EventFlags) {
        let index = (token / token::SOURCES - 1) as usize;
        let Some(Some(entry)) = self.entries.get_mut(index) else { return };
        // An event of a slot that was dropped a moment ago, in the same batch.
        let Some(interest) = entry.watched.get((token % token::SOURCES) as usize) else { return };
        let mut source = lock(&entry.source);
        source.ready(interest.ready);
        let wanted = source.interests();
        drop(source);
        entry.refresh(epoll, index, wanted);
    }
}

impl Entry {
    /// Makes epoll watch what is wanted. A file that epoll refuses (a regular file, which is always ready) is not watched.
    fn refresh(&mut self, epoll: &OwnedFd, index: usize, mut wanted: Vec<Interest>) {
        wanted.retain(|interest| interest.fd >= 0 && (interest.readable || interest.writable));
        let same = |slot: usize, a: &[Interest], b: &[Interest]| a.get(slot) == b.get(slot);
        for (slot, old) in self.watched.iter().enumerate() {
            if !same(slot, &self.watched, &wanted) {
                // Fails when the device has closed it.
                let _ = epoll::delete(epoll, borrow(old.fd));
            }
        }
        for (slot, new) in wanted.iter().enumerate() {
            if !same(slot, &self.watched, &wanted) {
                let mut flags = EventFlags::empty();
                flags.set(EventFlags::IN, new.readable);
                flags.set(EventFlags::OUT, new.writable);
                let token = (index as u64 + 1) * token::SOURCES + slot as u64;
                let _ = epoll::add(epoll, borrow(new.fd), EventData::new_u64(token), flags);
            }
        }
        self.watched = wanted;
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        // Devices may hold handles that hold the waker; nothing else refers back to the loop.
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use vmm_sys_util::eventfd::EventFd;

    struct Counter {
        event: EventFd,
        wanted: bool,
        seen: Vec<Ready>,
    }

    impl Source for Counter {
        fn interests(&self) -> Vec<Interest> {
            let ready = Ready::File(9);
            vec![Interest { fd: self.event.as_raw_fd(), ready, readable: self.wanted, writable: false }]
        }
        fn ready(&mut self, ready: Ready) {
            let _ = self.event.read();
            self.seen.push(ready);
            self.wanted = false;
        }
    }

    #[test]
    fn a_source_is_asked_again_after_each_event() {
        let mut events = super::super::EventLoop::new().unwrap();
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let counter = Arc::new(Mutex::new(Counter {
            event: event.try_clone().unwrap(),
            wanted: true,
            seen: Vec::new(),
        }));
        let handle = events.add(counter.clone());
        handle.changed();
        event.write(1).unwrap();
        let waker = events.waker();
        let done = || {
            let seen = lock(&counter).seen.len();
            waker.wake();
            (seen > 0).then_some(crate::vcpu::exit::ExitReason::Reset)
        };
        events.run(&mut (), done).unwrap();
        assert_eq!(lock(&counter).seen, [Ready::File(9)]);
        assert!(events.sources.entries[0].as_ref().unwrap().watched.is_empty());
    }
    #[test]
    fn what_happens_in_a_pause_is_served_after_it() {
        let mut events = super::super::EventLoop::new().unwrap();
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (other, own) = (event.try_clone().unwrap(), event.try_clone().unwrap());
        let counter = Arc::new(Mutex::new(Counter { event: own, wanted: true, seen: Vec::new() }));
        let gone = Arc::new(Mutex::new(Counter { event: other, wanted: true, seen: Vec::new() }));
        let handle = events.add(gone.clone());
        handle.changed();
        events.remove(&handle);
        events.add(counter.clone()).changed();
        events.set_paused(true);
        event.write(1).unwrap();
        let (waker, turns) = (events.waker(), std::cell::Cell::new(0));
        let paused = || {
            waker.wake();
            turns.set(turns.get() + 1);
            (turns.get() > 5).then_some(crate::vcpu::exit::ExitReason::Reset)
        };
        events.run(&mut (), paused).unwrap();
        assert!(lock(&counter).seen.is_empty());
        events.set_paused(false);
        let served = || {
            waker.wake();
            (!lock(&counter).seen.is_empty()).then_some(crate::vcpu::exit::ExitReason::Reset)
        };
        events.run(&mut (), served).unwrap();
        assert!(lock(&gone).seen.is_empty());
    }
}
