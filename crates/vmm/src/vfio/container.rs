//! The IOMMU's address space: what functions of the host can reach of our memory.
#![expect(unsafe_code, reason = "ioctls of VFIO take raw addresses")]

use super::VfioError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap};

/// `_IO(VFIO_TYPE, VFIO_BASE + n)` of Linux `include/uapi/linux/vfio.h`.
pub(super) const fn request(number: u64) -> u64 {
    (b';' as u64) << 8 | (100 + number)
}

const GET_API_VERSION: u64 = request(0);
const CHECK_EXTENSION: u64 = request(1);
const SET_IOMMU: u64 = request(2);
const MAP_DMA: u64 = request(13);
const UNMAP_DMA: u64 = request(14);

/// VFIO_API_VERSION
const API: i32 = 0;
/// VFIO_TYPE1v2_IOMMU
const TYPE1_V2: u64 = 3;
/// VFIO_DMA_MAP_FLAG_READ, _WRITE
const READ: u32 = 1;
const WRITE: u32 = 2;

/// Where the container comes from.
const PATH: &str = "/dev/vfio/vfio";

/// `struct vfio_iommu_type1_dma_map`
#[repr(C)]
struct Map {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// A container. All functions of a machine are in one.
#[derive(Debug)]
pub struct Container {
    file: File,
    /// The kind of IOMMU was chosen.
    started: AtomicBool,
}

impl Container {
    /// A new one, in which nothing is yet.
    ///
    /// # Errors
    /// When there is no VFIO, or one without an IOMMU as PCs have it.
    pub fn open() -> Result<Self, VfioError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(PATH)
            .map_err(|source| VfioError::Open { path: PATH.into(), source })?;
        let container = Container { file, started: AtomicBool::new(false) };
        if container.ask(GET_API_VERSION, 0).ok() != Some(API) {
            return Err(VfioError::Lacks("version 0 of its interface"));
        }
        if container.ask(CHECK_EXTENSION, TYPE1_V2).ok() != Some(1) {
            return Err(VfioError::Lacks("VFIO_TYPE1v2_IOMMU (load vfio_iommu_type1)"));
        }
        Ok(container)
    }

    /// The container's number, by which a group joins it.
    pub(super) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Chooses the kind of IOMMU; there has to be a group in it. Once: the kernel refuses a second choice, and groups that join later have the
    /// first.
    ///
    /// # Errors
    /// When the host's IOMMU cannot keep interrupts apart either.
    pub(super) fn start(&self) -> Result<(), VfioError> {
        if self.started.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.ask(SET_IOMMU, TYPE1_V2).map_err(VfioError::request(
            "turning the IOMMU on (\"Operation not permitted\": it does not remap interrupts, by which a guest could interrupt the host at will)",
        ))?;
        self.started.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets functions reach a region of guest memory, at the guest's address. Its pages stay where they are from now on.
    ///
    /// # Errors
    /// When they cannot be pinned.
    pub fn map(&self, region: &GuestRegionMmap, writable: bool) -> Result<(), VfioError> {
        let mut map = Map {
            argsz: size_of::<Map>() as u32,
            flags: READ | if writable { WRITE } else { 0 },
            vaddr: region.as_ptr() as u64,
            iova: region.start_addr().raw_value(),
            size: region.len(),
        };
        let doing = format!(
            "pinning {} MiB of guest memory (\"Cannot allocate memory\": RLIMIT_MEMLOCK is too low, `ulimit -l`)",
            region.len() >> 20
        );
        // SAFETY: reads one structure; the range is a mapping that lives as long as the process.
        checked(unsafe { libc::ioctl(self.number(), MAP_DMA, &raw mut map) })
            .map(drop)
            .map_err(VfioError::request(doing))
    }

    /// Takes a region away again. When this returns no function reaches it.
    pub fn unmap(&self, region: &GuestRegionMmap) {
        let mut unmap = Unmap {
            argsz: size_of::<Unmap>() as u32,
            flags: 0,
            iova: region.start_addr().raw_value(),
            size: region.len(),
        };
        // SAFETY: reads and writes one structure. It fails only for what was not mapped.
        unsafe { libc::ioctl(self.number(), UNMAP_DMA, &raw mut unmap) };
    }

    /// A request whose argument is a number.
    fn ask(&self, request: u64, argument: u64) -> io::Result<i32> {
        // SAFETY: the requests made here take their argument by value.
        checked(unsafe { libc::ioctl(self.number(), request, argument) })
    }
}

pub(super) fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_iommu_is_chosen_once() {
        // A file that refuses every request, as a container refuses a second choice.
        let container =
            |started| Container { file: File::open("/dev/null").unwrap(), started: AtomicBool::new(started) };
        assert!(container(false).start().unwrap_err().to_string().contains("turning the IOMMU on"));
        assert!(container(true).start().is_ok(), "the second function joins what the first has chosen");
    }
}
