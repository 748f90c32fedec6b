//! The DAX window: files of the host mapped where the guest sees memory, so that both use the same page cache.
//!
//! ```text
//!   guest physical:  address ─────────────────────────── address + size
//!   our process:     host ── file A ── nothing ── file B ── host + size
//! ```
//!
//! Where nothing is mapped there are pages without access: a guest that touches them stops itself.
#![expect(unsafe_code, reason = "maps files over an address range that the machine reserved")]

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

/// Offsets and lengths are multiples of this, the page size (`map_alignment` is its logarithm).
pub const ALIGNMENT_BITS: u16 = 12;

/// A reserved range of addresses, in our process and in the guest's memory.
#[derive(Debug)]
pub struct Window {
    /// Guest physical address.
    pub address: u64,
    /// Bytes, a multiple of 4 KiB.
    pub size: u64,
    host: usize,
    /// Files are mapped one at a time, and reset sees all of it.
    one_at_a_time: Mutex<()>,
}

impl Window {
    /// A window at `host` in our process, which the guest sees at `address`.
    ///
    /// # Safety
    /// `size` bytes from `host` on must be reserved for this window alone, without access, and stay so for the life of the process. Nothing
    /// but the guest and the kernel may use them: there are no references into it.
    pub unsafe fn new(address: u64, size: u64, host: *mut u8) -> Self {
        Self { address, size, host: host as usize, one_at_a_time: Mutex::new(()) }
    }

    fn range(&self, offset: u64, length: u64) -> Result<*mut libc::c_void, Errno> {
        let end = offset.checked_add(length).ok_or(Errno::INVAL)?;
        let aligned = (offset | length).trailing_zeros() >= u32::from(ALIGNMENT_BITS);
        if !aligned || length == 0 || end > self.size {
            return Err(Errno::INVAL);
        }
        Ok((self.host + offset as usize) as *mut libc::c_void)
    }

    /// Maps `length` bytes of a file, from `file_offset` on, at `offset` of the window.
    ///
    /// # Errors
    /// EINVAL when it is outside of the window or not aligned, else those of mmap(2).
    pub fn map(
        &self,
        file: BorrowedFd<'_>,
        file_offset: u64,
        offset: u64,
        length: u64,
        writable: bool,
    ) -> Result<(), Errno> {
        let place = self.range(offset, length)?;
        let file_offset = i64::try_from(file_offset).map_err(|_| Errno::INVAL)?;
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let _locked = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `range` has checked that the place lies in what `new` was given for this alone.
        let mapped =
            unsafe { libc::mmap(place, length as usize, protection, flags, file.as_raw_fd(), file_offset) };
        result(mapped)
    }

    /// Takes away what is mapped in `length` bytes at `offset`.
    ///
    /// # Errors
    /// EINVAL when it is outside of the window or not aligned.
    pub fn unmap(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let place = self.range(offset, length)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let _locked = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `map`; pages without access take the place of the file's.
        let mapped = unsafe { libc::mmap(place, length as usize, libc::PROT_NONE, flags, -1, 0) };
        result(mapped)
    }
}

fn result(mapped: *mut libc::c_void) -> Result<(), Errno> {
    if mapped == libc::MAP_FAILED {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOMEM));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    const SIZE: usize = 0x10000;

    fn window() -> (Window, *mut u8) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice, leaked for the window.
        unsafe {
            let host = libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_NONE, flags, -1, 0).cast();
            (Window::new(1 << 32, SIZE as u64, host), host)
        }
    }

    #[test]
    fn files_appear_and_writes_reach_them() {
        let (window, host) = window();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 0x3000]).unwrap();
        window.map(file.as_fd(), 0x1000, 0x4000, 0x2000, true).unwrap();
        // SAFETY: mapped just now.
        unsafe {
            assert_eq!(host.add(0x4000).read_volatile(), 7);
            host.add(0x5fff).write_volatile(9);
        }
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 0x2fff).unwrap();
        assert_eq!(byte, [9]);
        window.unmap(0x4000, 0x2000).unwrap();
        // The kernel refuses to read from there: nothing is left.
        // SAFETY: the kernel checks the address.
        let written = unsafe { libc::write(file.as_raw_fd(), host.add(0x4000).cast(), 1) };
        assert_eq!(written, -1);
    }

    #[test]
    fn nothing_outside_of_the_window() {
        let (window, _) = window();
        let file = tempfile::tempfile().unwrap();
        for (offset, length) in
            [(0, 0), (1, 0x1000), (0, 0x1001), (0, 0x11000), (0xf000, 0x2000), (u64::MAX - 0xfff, 0x1000)]
        {
            assert_eq!(
                window.map(file.as_fd(), 0, offset, length, false),
                Err(Errno::INVAL),
                "{offset:x} {length:x}"
            );
            assert_eq!(window.unmap(offset, length), Err(Errno::INVAL));
        }
        assert_eq!(window.map(file.as_fd(), u64::MAX - 0xfff, 0, 0x1000, false), Err(Errno::INVAL));
    }
}
