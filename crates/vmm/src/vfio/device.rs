//! A device of VFIO: opening it, its regions and interrupts.
#![expect(unsafe_code, reason = "ioctls of VFIO, and mapping its regions")]

use super::container::{Container, checked, request};
use super::{Hardware, VfioError};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vm_memory::{GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

const GROUP_GET_STATUS: u64 = request(3);
const GROUP_SET_CONTAINER: u64 = request(4);
const GROUP_GET_DEVICE_FD: u64 = request(6);
const DEVICE_GET_INFO: u64 = request(7);
const DEVICE_GET_REGION_INFO: u64 = request(8);
const DEVICE_SET_IRQS: u64 = request(10);
const DEVICE_RESET: u64 = request(11);

/// VFIO_GROUP_FLAGS_VIABLE
const VIABLE: u32 = 1;
/// VFIO_DEVICE_FLAGS_RESET, _PCI
const CAN_RESET: u32 = 1;
const IS_PCI: u32 = 2;
/// VFIO_REGION_INFO_FLAG_MMAP
const MAPPABLE: u32 = 4;
/// VFIO_PCI_CONFIG_REGION_INDEX
pub const CONFIG: usize = 7;
/// VFIO_PCI_MSIX_IRQ_INDEX
const MSIX: u32 = 2;
/// VFIO_IRQ_SET_DATA_NONE, _DATA_EVENTFD, _ACTION_TRIGGER
const DATA_NONE: u32 = 1;
const DATA_EVENTFD: u32 = 1 << 2;
const ACTION_TRIGGER: u32 = 1 << 5;

/// `struct vfio_device_info`
#[repr(C)]
#[derive(Default)]
struct DeviceInfo {
    argsz: u32,
    flags: u32,
    num_regions: u32,
    num_irqs: u32,
    cap_offset: u32,
    pad: u32,
}

/// `struct vfio_region_info`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

/// A region of the device's descriptor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Region {
    /// Bytes; 0 when the device has no such region.
    pub size: u64,
    /// Whether pages of it can be mapped.
    pub mappable: bool,
    /// Where it begins in the device's descriptor.
    pub(super) offset: u64,
}

/// An opened device. The kernel has reset it, and will when it is closed.
#[derive(Debug)]
pub struct Device {
    address: String,
    file: File,
    regions: [Region; CONFIG + 1],
    /// Keeps the device usable.
    group: File,
    _container: Arc<Container>,
}

impl Device {
    /// Opens the function `address`, which becomes a part of `container`.
    ///
    /// # Errors
    /// When it is not bound to vfio-pci, or somebody else has it.
    pub fn open(address: &str, container: &Arc<Container>) -> Result<Self, VfioError> {
        let sysfs = Path::new("/sys/bus/pci/devices").join(address);
        let last = |name| Some(sysfs.join(name).read_link().ok()?.file_name()?.to_os_string());
        let group = last("iommu_group").filter(|_| last("driver").is_some_and(|driver| driver == "vfio-pci"));
        let group = group.ok_or_else(|| VfioError::NotBound(address.into()))?;
        let path: PathBuf = Path::new("/dev/vfio").join(&group);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let group_file = opened.map_err(|source| VfioError::Open { path, source })?;
        let number = group_file.as_raw_fd();
        let mut status = [8_u32, 0];
        // SAFETY: `struct vfio_group_status` is two numbers.
        checked(unsafe { libc::ioctl(number, GROUP_GET_STATUS, status.as_mut_ptr()) })
            .map_err(VfioError::request("asking for the IOMMU group"))?;
        if status[1] & VIABLE == 0 {
            return Err(VfioError::Shared(group.to_string_lossy().into_owned()));
        }
        let joined = container.number();
        // SAFETY: reads one number.
        checked(unsafe { libc::ioctl(number, GROUP_SET_CONTAINER, &raw const joined) })
            .map_err(VfioError::request("joining the IOMMU group"))?;
        container.start()?;
        let name = CString::new(address).map_err(|e| VfioError::request("naming it")(io::Error::other(e)))?;
        // SAFETY: reads a string that ends.
        let device = checked(unsafe { libc::ioctl(number, GROUP_GET_DEVICE_FD, name.as_ptr()) })
            .map_err(VfioError::request(format!("opening PCI function {address}")))?;
        // SAFETY: a new descriptor, which nobody else has.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(device) });
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC)
            .map_err(VfioError::request("opening a device"))?;
        let mut device = Device {
            address: address.into(),
            file,
            regions: Default::default(),
            group: group_file,
            _container: container.clone(),
        };
        device.look()?;
        Ok(device)
    }

    /// Reads what it is, and resets it.
    fn look(&mut self) -> Result<(), VfioError> {
        let number = self.file.as_raw_fd();
        let mut info = DeviceInfo { argsz: size_of::<DeviceInfo>() as u32, ..Default::default() };
        // SAFETY: writes one structure of the size that it says.
        checked(unsafe { libc::ioctl(number, DEVICE_GET_INFO, &raw mut info) })
            .map_err(VfioError::request("asking for the device"))?;
        if info.flags & IS_PCI == 0 {
            return Err(self.unfit("it is no PCI function"));
        }
        for (index, region) in self.regions.iter_mut().enumerate() {
            let argsz = size_of::<RegionInfo>() as u32;
            let mut info = RegionInfo { argsz, index: index as u32, ..Default::default() };
            // SAFETY: writes one structure of the size that it says.
            checked(unsafe { libc::ioctl(number, DEVICE_GET_REGION_INFO, &raw mut info) })
                .map_err(VfioError::request("asking for a region"))?;
            let RegionInfo { size, offset, flags, .. } = info;
            *region = Region { size, mappable: flags & MAPPABLE != 0, offset };
        }
        if info.flags & CAN_RESET != 0 {
            // SAFETY: takes nothing.
            checked(unsafe { libc::ioctl(number, DEVICE_RESET) })
                .map_err(VfioError::request("resetting the device"))?;
        }
        Ok(())
    }

    /// Its address on the host.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its regions: BARs 0 to 5, the ROM, [`CONFIG`].
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The first bytes of its configuration space.
    pub fn config(&self) -> [u8; crate::pci::config::SIZE] {
        let mut bytes = [0xFF; crate::pci::config::SIZE];
        self.read(CONFIG, 0, &mut bytes);
        bytes
    }

    /// The descriptor of its group.
    pub fn group(&self) -> &File {
        &self.group
    }

    /// An error about this device.
    pub fn unfit(&self, why: &'static str) -> VfioError {
        VfioError::Unfit { address: self.address.clone(), why }
    }

    /// Maps `size` bytes of a BAR from `offset` on, whole pages, for the guest address `at`. It stays mapped as long as the process lives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(&self, bar: usize, offset: u64, size: u64) -> Result<GuestRegionMmap, VfioError> {
        let failed = VfioError::request::<io::Error>(format!("mapping BAR {bar} of {}", self.address));
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let start = (self.regions[bar].offset + offset) as libc::off_t;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let mapped = unsafe {
            libc::mmap(std::ptr::null_mut(), size as usize, protection, flags, self.file.as_raw_fd(), start)
        };
        if mapped == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: mapped just now, owned by nobody else, never unmapped: one process is one machine.
        let region = unsafe { MmapRegion::build_raw(mapped.cast(), size as usize, protection, flags) };
        region
            .ok()
            .and_then(|region| GuestRegionMmap::new(region, vm_memory::GuestAddress(0)))
            .ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EINVAL)))
    }

    /// `struct vfio_irq_set` with the eventfds behind it.
    fn set_irqs(&self, flags: u32, events: &[EventFd]) -> io::Result<()> {
        let size = 20 + 4 * events.len() as u32;
        let mut set = vec![size, flags, MSIX, 0, events.len() as u32];
        set.extend(events.iter().map(|event| event.as_raw_fd() as u32));
        // SAFETY: reads as many bytes as the first number says, which are there.
        checked(unsafe { libc::ioctl(self.file.as_raw_fd(), DEVICE_SET_IRQS, set.as_ptr()) }).map(drop)
    }
}

impl Hardware for Device {
    fn read(&self, region: usize, offset: u64, data: &mut [u8]) {
        if let Some(found) = self.regions.get(region) {
            // A device that does not answer reads ones, which are there already.
            let _ = self.file.read_at(data, found.offset + offset);
        }
    }

    fn write(&self, region: usize, offset: u64, data: &[u8]) {
        if let Some(found) = self.regions.get(region) {
            let _ = self.file.write_at(data, found.offset + offset);
        }
    }

    fn connect(&self, events: &[EventFd]) -> io::Result<()> {
        self.set_irqs(DATA_EVENTFD | ACTION_TRIGGER, events)
    }

    fn disconnect(&self) {
        // Fails when none are connected.
        let _ = self.set_irqs(DATA_NONE | ACTION_TRIGGER, &[]);
    }
}
