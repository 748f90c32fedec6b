//! PCI functions behind network interfaces: lent to a machine by vfio-pci, and given back.
//!
//! ```text
//!   eth0 in the namespace ─► its driver lets go (eth0 is gone) ─► driver_override = vfio-pci ─► /dev/vfio/<group> ─► VMM
//!   VMM ended ─► vfio-pci lets go ─► the old driver_override ─► the old driver ─► a new interface in the host's first
//!   namespace ─► moved to where eth0 was, with its name, MAC and MTU
//! ```
//!
//! What the kernel says of functions is in sysfs: Linux `Documentation/ABI/testing/sysfs-bus-pci`.

use super::NetworkError;
use crate::configuration::Passthrough;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The driver that hands functions to programs.
const VFIO: &str = "vfio-pci";

/// Class of bridges (PCI Code and ID Assignment 1.11, 1.7), whose members of a group do no DMA of their own.
const BRIDGE: &str = "0x06";

/// The PCI bus in sysfs.
const BUS: &str = "/sys/bus/pci";

/// A function and what it was before it was lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// For example `0000:01:10.0`.
    pub address: String,
    /// Its driver.
    driver: String,
    /// What `driver_override` said.
    driver_override: Option<String>,
}

/// Why a function cannot be lent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FunctionError {
    /// No IOMMU.
    #[error(
        "it has no IOMMU group, so the host cannot keep it from memory that is not the machine's: turn the IOMMU on (VT-d or AMD-Vi in the firmware; intel_iommu=on in the kernel parameters of Intel hosts), or redirect its packets by network.passthrough = \"none\""
    )]
    NoIommu,
    /// Others in the group.
    #[error(
        "its IOMMU group {group} has other devices, which could reach the machine's memory: {others}; put the adapter into another slot, or redirect its packets by network.passthrough = \"none\""
    )]
    Shared {
        /// Number of the group.
        group: String,
        /// Their addresses.
        others: String,
    },
    /// No vfio-pci.
    #[error(
        "this kernel has no driver vfio-pci: load it by `modprobe vfio-pci` (CONFIG_VFIO_PCI, CONFIG_VFIO_GROUP), or redirect its packets by network.passthrough = \"none\""
    )]
    NoVfio,
    /// No driver whose it is.
    #[error("it has no driver")]
    NoDriver,
}

/// Makes `modprobe` find a driver; where there is none, or no modprobe, the driver stays missing.
fn load_vfio() {
    let quiet = || Stdio::null();
    let _ = Command::new("modprobe").arg(VFIO).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
}

/// The bus, which tests replace.
#[derive(Debug, Clone)]
pub struct Bus {
    root: PathBuf,
    load: fn(),
}

impl Bus {
    /// The host's.
    pub fn host() -> Self {
        Bus { root: BUS.into(), load: load_vfio }
    }

    fn device(&self, address: &str) -> PathBuf {
        self.root.join("devices").join(address)
    }

    /// Whether there is such a function.
    pub fn has(&self, address: &str) -> bool {
        self.device(address).exists()
    }

    /// Whether it is a virtual function of another.
    pub fn is_virtual(&self, address: &str) -> bool {
        self.device(address).join("physfn").exists()
    }

    fn driver_of(&self, address: &str) -> Option<String> {
        last_part(&self.device(address).join("driver"))
    }

    /// A function that `which` says goes to the machine itself; `None` if its packets are redirected: for one that cannot be lent, unless
    /// somebody insists.
    ///
    /// # Errors
    /// Why it cannot be lent.
    pub fn choose(
        &self,
        address: &str,
        which: Passthrough,
        insist: bool,
    ) -> Result<Option<Function>, FunctionError> {
        let wanted = match which {
            Passthrough::None => false,
            Passthrough::Virtual => self.is_virtual(address),
            Passthrough::All => true,
        };
        match wanted.then(|| self.look(address)) {
            Some(Err(_)) if !insist => Ok(None),
            looked => looked.transpose(),
        }
    }

    /// Looks whether a function can be lent, and what it is now. Changes nothing, but may load vfio-pci.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn look(&self, address: &str) -> Result<Function, FunctionError> {
        let device = self.device(address);
        let group = last_part(&device.join("iommu_group")).ok_or(FunctionError::NoIommu)?;
        let members = fs::read_dir(device.join("iommu_group/devices")).into_iter().flatten().flatten();
        let others: Vec<String> = members
            .map(|member| member.file_name().to_string_lossy().into_owned())
            .filter(|member| member != address && !self.is_bridge(member))
            .collect();
        if !others.is_empty() {
            return Err(FunctionError::Shared { group, others: others.join(", ") });
        }
        let has_vfio = || self.root.join("drivers").join(VFIO).exists();
        if !has_vfio() {
            (self.load)();
        }
        if !has_vfio() {
            return Err(FunctionError::NoVfio);
        }
        let driver = self.driver_of(address).ok_or(FunctionError::NoDriver)?;
        Ok(Function { address: address.into(), driver, driver_override: self.override_of(address) })
    }

    fn is_bridge(&self, address: &str) -> bool {
        let class = fs::read_to_string(self.device(address).join("class")).unwrap_or_default();
        class.starts_with(BRIDGE)
    }

    fn override_of(&self, address: &str) -> Option<String> {
        let text = fs::read_to_string(self.device(address).join("driver_override")).unwrap_or_default();
        Some(text.trim_end().to_string()).filter(|text| !text.is_empty() && text != "(null)")
    }

    /// Takes a function from its driver, and with that its interface from the host, and gives it to vfio-pci.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lend(&self, function: &Function) -> Result<(), NetworkError> {
        self.unbind(&function.address)?;
        self.set_override(&function.address, Some(VFIO))?;
        self.bind(&function.address, VFIO)
    }

    /// Gives a function back to the driver that it had; says whether it was lent. One that has another driver than vfio-pci, or is gone, is
    /// left alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_back(&self, function: &Function) -> Result<bool, NetworkError> {
        let address = &function.address;
        let now = self.driver_of(address);
        if !self.has(address) || now.as_deref().is_some_and(|now| now != VFIO) {
            return Ok(false);
        }
        // This waits for the VMM, if it still has the function: it is being killed then.
        self.unbind(address)?;
        self.set_override(address, function.driver_override.as_deref())?;
        self.bind(address, &function.driver).map(|()| true)
    }

    fn unbind(&self, address: &str) -> Result<(), NetworkError> {
        let path = self.device(address).join("driver/unbind");
        match fs::write(&path, address) {
            // It has none.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(failed("taking its driver from", address)),
        }
    }

    fn set_override(&self, address: &str, driver: Option<&str>) -> Result<(), NetworkError> {
        let text = format!("{}\n", driver.unwrap_or_default());
        let path = self.device(address).join("driver_override");
        fs::write(path, text).map_err(failed("choosing a driver for", address))
    }

    fn bind(&self, address: &str, driver: &str) -> Result<(), NetworkError> {
        if self.driver_of(address).as_deref() == Some(driver) {
            return Ok(());
        }
        let path = self.root.join("drivers").join(driver).join("bind");
        let what = format!("giving driver {driver} to");
        match fs::write(path, address) {
            // The kernel was faster.
            Err(_) if self.driver_of(address).as_deref() == Some(driver) => Ok(()),
            result => result.map_err(failed(&what, address)),
        }
    }
}

fn failed(what: &str, address: &str) -> impl FnOnce(io::Error) -> NetworkError {
    NetworkError::kernel(format!("{what} PCI function {address}"))
}

/// What a symbolic link leads to, without its directory.
fn last_part(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const VF: &str = "0000:01:10.0";

    /// A bus of plain files: a virtual function with driver igbvf, alone in group 7.
    fn bus() -> (tempfile::TempDir, Bus) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let group = root.join("groups/7");
        for made in ["devices/0000:01:10.0", "drivers/igbvf", "drivers/vfio-pci", "groups/7/devices"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        let device = root.join("devices").join(VF);
        symlink(&group, device.join("iommu_group")).unwrap();
        symlink(root.join("drivers/igbvf"), device.join("driver")).unwrap();
        symlink(&device, group.join("devices").join(VF)).unwrap();
        fs::write(device.join("driver_override"), "(null)\n").unwrap();
        let bus = Bus { root: root.into(), load: || {} };
        (dir, bus)
    }

    fn read(bus: &Bus, path: &str) -> String {
        fs::read_to_string(bus.root.join(path)).unwrap_or_default()
    }

    /// What the kernel does when `unbind` and `bind` were written.
    fn rebind(bus: &Bus, driver: &str) {
        let link = bus.device(VF).join("driver");
        let _ = fs::remove_file(&link);
        symlink(bus.root.join("drivers").join(driver), link).unwrap();
    }

    #[test]
    fn a_function_goes_to_vfio_and_back_to_its_driver() {
        let (_dir, bus) = bus();
        let function = bus.look(VF).unwrap();
        assert_eq!((function.driver.as_str(), &function.driver_override), ("igbvf", &None));
        // Nothing was lent: nothing is taken from a driver.
        assert!(!bus.give_back(&function).unwrap());
        assert_eq!(read(&bus, "drivers/igbvf/unbind"), "");
        bus.lend(&function).unwrap();
        assert_eq!(read(&bus, "drivers/igbvf/unbind"), VF);
        assert_eq!(read(&bus, "devices/0000:01:10.0/driver_override"), "vfio-pci\n");
        assert_eq!(read(&bus, "drivers/vfio-pci/bind"), VF);
        rebind(&bus, "vfio-pci");
        assert!(bus.give_back(&function).unwrap());
        assert_eq!(read(&bus, "drivers/vfio-pci/unbind"), VF);
        assert_eq!(read(&bus, "devices/0000:01:10.0/driver_override"), "\n");
        assert_eq!(read(&bus, "drivers/igbvf/bind"), VF);
    }

    #[test]
    fn a_choice_of_driver_that_was_made_before_is_made_again() {
        let (_dir, bus) = bus();
        fs::write(bus.device(VF).join("driver_override"), "igbvf\n").unwrap();
        let function = bus.look(VF).unwrap();
        rebind(&bus, "vfio-pci");
        bus.give_back(&function).unwrap();
        assert_eq!(read(&bus, "devices/0000:01:10.0/driver_override"), "igbvf\n");
    }

    #[test]
    fn a_function_that_is_gone_needs_nothing() {
        let (_dir, bus) = bus();
        let function = bus.look(VF).unwrap();
        fs::remove_dir_all(bus.device(VF)).unwrap();
        assert!(!bus.give_back(&function).unwrap());
    }

    #[test]
    fn one_that_cannot_be_lent_is_redirected_unless_somebody_insists() {
        let (_dir, bus) = bus();
        let choose = |which, insist| bus.choose(VF, which, insist).map(|chosen| chosen.is_some());
        assert_eq!(choose(Passthrough::Virtual, true), Ok(false), "not a virtual one");
        assert_eq!(choose(Passthrough::All, false), Ok(true));
        fs::write(bus.device(VF).join("physfn"), "").unwrap();
        assert_eq!(choose(Passthrough::Virtual, false), Ok(true));
        assert_eq!(choose(Passthrough::None, true), Ok(false));
        fs::remove_file(bus.device(VF).join("iommu_group")).unwrap();
        assert_eq!(choose(Passthrough::Virtual, false), Ok(false));
        assert_eq!(choose(Passthrough::Virtual, true), Err(FunctionError::NoIommu));
    }

    #[test]
    fn what_cannot_be_lent_is_refused_in_a_sentence() {
        let (_dir, bus) = bus();
        let bridge = bus.root.join("devices/0000:00:01.0");
        fs::create_dir_all(&bridge).unwrap();
        fs::write(bridge.join("class"), "0x060400\n").unwrap();
        symlink(&bridge, bus.root.join("groups/7/devices/0000:00:01.0")).unwrap();
        assert!(bus.look(VF).is_ok(), "a bridge of the group is no danger");
        fs::write(bridge.join("class"), "0x010802\n").unwrap();
        let others = "0000:00:01.0".to_string();
        assert_eq!(bus.look(VF), Err(FunctionError::Shared { group: "7".into(), others }));
        fs::remove_file(bus.root.join("groups/7/devices/0000:00:01.0")).unwrap();
        fs::remove_dir(bus.root.join("drivers/vfio-pci")).unwrap();
        assert_eq!(bus.look(VF), Err(FunctionError::NoVfio));
        fs::remove_file(bus.device(VF).join("iommu_group")).unwrap();
        assert_eq!(bus.look(VF), Err(FunctionError::NoIommu));
    }
}
