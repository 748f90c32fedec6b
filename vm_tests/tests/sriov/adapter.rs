//! The lab's network adapter with virtual functions.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vm_tests::{Command, until};

/// Address of the adapter itself on its network, and of a virtual function.
pub const HOST: &str = "10.78.0.1";
pub const OURS: &str = "10.78.0.2";

/// One test at a time has it.
static ADAPTER: Mutex<()> = Mutex::new(());

/// The adapter with one virtual function, whose interface is in the first network namespace.
pub struct Adapter {
    physical: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Adapter {
    /// Makes the virtual function; `None`, and a line that says so, outside of the lab.
    pub fn new() -> Option<Self> {
        let turn = ADAPTER.lock().unwrap_or_else(PoisonError::into_inner);
        let drivers = fs::read_dir("/sys/bus/pci/drivers/igb").into_iter().flatten().flatten();
        let in_lab = std::env::var_os("CLEAR_LAB").is_some();
        let mut found = drivers.map(|entry| entry.path()).filter(|path| path.join("sriov_numvfs").exists());
        let Some(physical) = found.find(|_| in_lab) else {
            eprintln!("skipped: no adapter to spare; in the lab: cargo xtask ci --only lab");
            return None;
        };
        let adapter = Adapter { physical: fs::canonicalize(physical).unwrap(), _turn: turn };
        let name = adapter.interface(&adapter.physical).expect("the adapter's interface");
        ip(&format!("link set {name} up"));
        adapter.set_functions(1);
        // Making them resets the adapter, and its driver answers them when it has its link again.
        until("the adapter's link", || ip(&format!("link show {name}")).contains("LOWER_UP").then_some(()));
        ip(&format!("address replace {HOST}/24 dev {name}"));
        until("the virtual function", || adapter.interface(&adapter.function()));
        Some(adapter)
    }

    fn set_functions(&self, count: u32) {
        fs::write(self.physical.join("sriov_numvfs"), count.to_string()).expect("making virtual functions");
    }

    /// The virtual function in sysfs.
    pub fn function(&self) -> PathBuf {
        fs::canonicalize(self.physical.join("virtfn0")).expect("a virtual function")
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.function().file_name().unwrap().to_str().unwrap().to_string()
    }

    /// Its driver.
    pub fn driver(&self) -> String {
        let driver = fs::read_link(self.function().join("driver")).unwrap_or_default();
        driver.file_name().unwrap_or_default().to_str().unwrap().to_string()
    }

    /// The name of its interface, while it is in the first network namespace.
    pub fn function_interface(&self) -> Option<String> {
        self.interface(&self.function())
    }

    fn interface(&self, function: &Path) -> Option<String> {
        let entry = fs::read_dir(function.join("net")).ok()?.flatten().next()?;
        entry.file_name().into_string().ok()
    }

    /// Gives it to vfio-pci, as an administrator does.
    pub fn give_to_vfio(&self) {
        let (function, address) = (self.function(), self.address());
        fs::write(function.join("driver_override"), "vfio-pci").unwrap();
        fs::write(function.join("driver/unbind"), &address).unwrap();
        fs::write("/sys/bus/pci/drivers_probe", &address).unwrap();
        assert_eq!(self.driver(), "vfio-pci");
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let _ = fs::write(self.physical.join("sriov_numvfs"), "0");
    }
}

/// `ip`
pub fn ip(words: &str) -> String {
    Command::new("ip").args(words.split_whitespace()).ok()
}
