//! Files in guest memory: mapped where page alignment allows, so that a boot reads only what it touches, and copied otherwise.
#![expect(unsafe_code, reason = "maps files over guest RAM that nobody uses yet")]

use super::{MemoryError, PAGE};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// Puts `size` bytes of `file` at `offset` to guest address `address`. The guest's writes stay its own.
///
/// The caller has checked that the file is long enough. `what` names the part for the error.
///
/// # Errors
/// When the range is not RAM, or the file cannot be mapped or read.
pub fn load(
    memory: &GuestMemoryMmap,
    file: &File,
    offset: u64,
    address: u64,
    size: u64,
    what: &'static str,
) -> Result<(), MemoryError> {
    let outside = || MemoryError::Outside { what, size, address };
    let failed = |source| MemoryError::Load { what, size, address, source };
    if size == 0 {
        return Ok(());
    }
    let length = usize::try_from(size).map_err(|_| outside())?;
    // Also proves that the range lies in one region, hence in one mapping of ours.
    memory.get_slice(GuestAddress(address), length).map_err(|_| outside())?;
    // Only whole pages are mapped: what follows the file's end in its last page is not ours to show.
    let whole =
        if offset.is_multiple_of(PAGE) && address.is_multiple_of(PAGE) { size - size % PAGE } else { 0 };
    if whole > 0 {
        map_over(memory, file, offset, address, whole).map_err(failed)?;
    }
    copy(memory, file, offset + whole, address + whole, size - whole, what)
}

/// Like [`load`], but copies: for what the guest is going to write to anyway, so that no page of it costs two faults.
///
/// # Errors
/// When the range is not RAM, or the file cannot be read.
pub fn copy(
    memory: &GuestMemoryMmap,
    file: &File,
    offset: u64,
    address: u64,
    size: u64,
    what: &'static str,
) -> Result<(), MemoryError> {
    let failed = |source| MemoryError::Load { what, size, address, source };
    let outside = || MemoryError::Outside { what, size, address };
    if size == 0 {
        return Ok(());
    }
    let length = usize::try_from(size).map_err(|_| outside())?;
    let target = memory.get_slice(GuestAddress(address), length).map_err(|_| outside())?;
    read_into(file, offset, &target).map_err(failed)
}

/// Reads from `offset` until `target` is full, without a buffer in between: it would stay in this process's heap.
fn read_into(file: &File, offset: u64, target: &VolatileSlice<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < target.len() {
        let from = libc::off_t::try_from(offset + done as u64).map_err(io::Error::other)?;
        let rest = target.offset(done).map_err(io::Error::other)?;
        // SAFETY: `rest` is mapped, writable memory of that length that nobody holds a reference into.
        let got =
            unsafe { libc::pread(file.as_raw_fd(), rest.ptr_guard_mut().as_ptr().cast(), rest.len(), from) };
        match usize::try_from(got) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => done += got,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

fn map_over(memory: &GuestMemoryMmap, file: &File, offset: u64, address: u64, size: u64) -> io::Result<()> {
    let target = memory.get_host_address(GuestAddress(address)).map_err(io::Error::other)?;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: `load` has checked that address..address+size lies in one region of guest memory, which is a mapping of this
    // process that is larger than the range; it has no references into it but volatile ones, so its content may change.
    let mapped = unsafe {
        libc::mmap(
            target.cast(),
            size as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Fills our page tables in one call instead of one fault for each 64 KiB; reads ahead when the file is not in memory.
    // SAFETY: the range was just mapped.
    unsafe { libc::madvise(mapped, size as usize, libc::MADV_POPULATE_READ) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::ram::{RamOptions, allocate};
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use vm_memory::Bytes;

    #[test]
    fn aligned_and_odd_ranges_hold_the_file_and_leave_it_alone() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..5 * PAGE).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let memory = allocate(4 << 20, RamOptions::default()).unwrap();
        for (offset, address, size) in [(PAGE, 0x10_0000, 3 * PAGE + 17), (5, 0x20_0003, 2 * PAGE), (0, 0, 0)]
        {
            load(&memory, &file, offset, address, size, "test").unwrap();
            let mut got = vec![0; size as usize + 1];
            memory.read_slice(&mut got, GuestAddress(address)).unwrap();
            assert_eq!(got[..size as usize], content[offset as usize..(offset + size) as usize]);
            assert_eq!(got[size as usize], 0, "what is behind stays as it was");
        }
        memory.write_obj(!0u64, GuestAddress(0x10_0000)).unwrap();
        let mut first = [0; 8];
        file.read_exact_at(&mut first, PAGE).unwrap();
        assert_eq!(first, content[PAGE as usize..PAGE as usize + 8]);
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE).unwrap();
        let memory = allocate(1 << 20, RamOptions::default()).unwrap();
        let refused = copy(&memory, &file, 0, 0, PAGE + 1, "test").unwrap_err();
        assert!(
            matches!(&refused, MemoryError::Load { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof),
            "{refused}"
        );
    }

    #[test]
    fn ranges_outside_of_ram_are_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let memory = allocate(1 << 20, RamOptions::default()).unwrap();
        for address in [PAGE, 1 << 20, u64::MAX - PAGE + 1, u64::MAX] {
            let refused = load(&memory, &file, 0, address, 1 << 20, "test").unwrap_err();
            assert!(matches!(refused, MemoryError::Outside { .. }), "{refused}");
        }
    }
}
