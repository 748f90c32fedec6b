//! Windows: regions of guest memory that are files of the host (pmem images), into which a device maps files (DAX), or that are RAM to
//! come (virtio-mem).
#![expect(unsafe_code, reason = "maps files over memory that was just reserved")]

use super::ram::RamOptions;
use super::{HUGE_PAGE, MemoryError, Window, WindowAllocator, ram};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap, MmapRegion};

/// Who sees the guest's writes to a mapped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: the guest cannot write.
    ReadOnly,
    /// Only this guest: its pages are copied when it writes them, and are gone when it ends.
    CopyOnWrite,
    /// Everybody who has the file.
    Shared,
}

/// Maps `size` bytes of `file` and places them. The caller has checked that the file is that long.
///
/// # Errors
/// When the host refuses, or there is no room in the guest's address space.
pub fn file(
    windows: &mut WindowAllocator,
    file: &File,
    size: u64,
    sharing: Sharing,
) -> Result<Window, MemoryError> {
    let failed = |source| MemoryError::Map { what: "a pmem image", size, source };
    let address = place(windows, size)?;
    let (protection, flags) = match sharing {
        Sharing::ReadOnly => (libc::PROT_READ, libc::MAP_SHARED),
        Sharing::CopyOnWrite => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE),
        Sharing::Shared => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
    };
    let mapped = || {
        let region = ram::anonymous(size, protection).map_err(failed)?;
        map_over(&region, file, protection, flags).map_err(failed)?;
        let region = ram::place(region, address, "pmem image")?;
        Ok(Window {
            region,
            readonly: sharing == Sharing::ReadOnly,
            private: sharing == Sharing::CopyOnWrite,
        })
    };
    mapped().inspect_err(|_| windows.release(address))
}

/// Reserves `size` bytes into which a device will map files. Where none is mapped there is no access: a guest that touches it
/// ends itself, instead of getting memory of the host that nobody counted.
///
/// # Errors
/// As for [`file`].
pub fn dax(windows: &mut WindowAllocator, size: u64) -> Result<Window, MemoryError> {
    let failed = |source| MemoryError::Map { what: "a DAX window", size, source };
    let address = place(windows, size)?;
    let reserved = || {
        let region = ram::anonymous(size, libc::PROT_NONE).map_err(failed)?;
        Ok(Window { region: ram::place(region, address, "DAX window")?, readonly: false, private: false })
    };
    reserved().inspect_err(|_| windows.release(address))
}

/// Reserves `size` bytes of RAM that the guest may get later. A page of it costs nothing until it is touched.
///
/// # Errors
/// As for [`file`].
pub fn memory(windows: &mut WindowAllocator, size: u64, options: RamOptions) -> Result<Window, MemoryError> {
    let failed = |source| MemoryError::Map { what: "RAM to come", size, source };
    let address = place(windows, size)?;
    let reserved = || {
        let region = ram::map(size, options).map_err(failed)?;
        Ok(Window { region: ram::place(region, address, "RAM to come")?, readonly: false, private: true })
    };
    reserved().inspect_err(|_| windows.release(address))
}

/// Puts pages without access in place of what a window maps, and gives its memory and file back to the host. The addresses stay
/// reserved, in our process: a device that still has the window in view meets no memory of anybody else.
///
/// # Errors
/// When the host refuses, and nothing has changed.
pub fn clear(region: &GuestRegionMmap) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let size = usize::try_from(region.len()).map_err(io::Error::other)?;
    // SAFETY: replaces the whole of a region that was mapped for guest memory, to which there are no references.
    let mapped = unsafe { libc::mmap(region.as_ptr().cast(), size, libc::PROT_NONE, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn place(windows: &mut WindowAllocator, size: u64) -> Result<u64, MemoryError> {
    let fits = size > 0 && size.is_multiple_of(HUGE_PAGE);
    windows.place(size).filter(|_| fits).ok_or_else(|| MemoryError::Place {
        what: "window",
        address: 0,
        reason: format!("{size} bytes are no multiple of 2 MiB, or more than the guest can address"),
    })
}

fn map_over(region: &MmapRegion, file: &File, protection: i32, flags: i32) -> io::Result<()> {
    // SAFETY: replaces the whole of a mapping that was just made, and that nobody else knows.
    let mapped = unsafe {
        libc::mmap(
            region.as_ptr().cast(),
            region.size(),
            protection,
            flags | libc::MAP_FIXED,
            file.as_raw_fd(),
            0,
        )
    };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use vm_memory::{Bytes, MemoryRegionAddress};

    #[test]
    fn who_sees_a_write() {
        for (sharing, seen) in [(Sharing::CopyOnWrite, b'a'), (Sharing::Shared, b'b')] {
            let image = tempfile::tempfile().unwrap();
            image.set_len(HUGE_PAGE).unwrap();
            image.write_all_at(b"a", 0).unwrap();
            let window = file(&mut WindowAllocator::new(64 << 20), &image, HUGE_PAGE, sharing).unwrap();
            assert_eq!(window.region.read_obj::<u8>(MemoryRegionAddress(0)).unwrap(), b'a');
            window.region.write_obj(b'b', MemoryRegionAddress(0)).unwrap();
            let mut byte = [0];
            image.read_exact_at(&mut byte, 0).unwrap();
            assert_eq!(byte[0], seen);
            assert_eq!(window.region.len(), HUGE_PAGE);
        }
    }

    #[test]
    fn a_cleared_window_is_without_access() {
        let image = tempfile::tempfile().unwrap();
        image.set_len(HUGE_PAGE).unwrap();
        let window = file(&mut WindowAllocator::new(64 << 20), &image, HUGE_PAGE, Sharing::Shared).unwrap();
        clear(&window.region).unwrap();
        let pipe = rustix::pipe::pipe().unwrap();
        // SAFETY: the kernel checks the address.
        let written = unsafe { libc::write(pipe.1.as_raw_fd(), window.region.as_ptr().cast(), 1) };
        assert_eq!((written, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
    }

    #[test]
    fn odd_sizes_are_refused() {
        let image = tempfile::tempfile().unwrap();
        for size in [0, 4096, HUGE_PAGE + 1] {
            assert!(
                file(&mut WindowAllocator::new(64 << 20), &image, size, Sharing::ReadOnly).is_err(),
                "{size}"
            );
        }
    }
}
