//! What the host must have for the runtimes to run; undone at the end.

#![expect(unsafe_code, reason = "a mount namespace of our own: the process has one thread then")]

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use std::fs::{self, File};
use std::path::Path;

/// Where hosts have the control groups; a directory that all mount namespaces share.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Controllers that hybrid hosts leave to version 2 of control groups; crun refuses such hosts.
const UNIFIED_CONTROLLERS: &str = "/sys/fs/cgroup/unified/cgroup.controllers";

/// Preparations of this process; dropping them undoes them.
#[derive(Debug)]
pub struct Preparations {
    mounted: Vec<String>,
    /// Top of the control groups, locked as long as this run needs what is mounted below.
    top: Option<File>,
}

impl Preparations {
    /// Makes this process the one to wait for containers' processes, and gives it its own mounts.
    ///
    /// # Errors
    /// Not root.
    pub fn make() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("runtimes make namespaces, mounts and devices: run this as root");
        }
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
            .context("becoming a subreaper")?;
        // SAFETY: no other thread of this process exists, so none shares the file system attributes that this unshares.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(std::io::Error::last_os_error()).context("making a mount namespace");
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .context("making all mounts private")?;
        let mut preparations = Self { mounted: Vec::new(), top: None };
        preparations.take_controllers()?;
        Ok(preparations)
    }

    /// Mounts each controller that version 2 has on a hybrid host as version 1.
    fn take_controllers(&mut self) -> Result<()> {
        let Ok(controllers) = fs::read_to_string(UNIFIED_CONTROLLERS) else { return Ok(()) };
        let top = File::open(CONTROL_GROUPS).context("opening the control groups")?;
        top.lock_shared().context("locking the control groups")?;
        self.top = Some(top);
        for controller in controllers.split_whitespace() {
            let directory = format!("{CONTROL_GROUPS}/{controller}");
            let is_new = !Path::new(&directory).exists();
            fs::create_dir_all(&directory).with_context(|| format!("making {directory}"))?;
            let options = std::ffi::CString::new(controller)?;
            match mount("cgroup", &directory, "cgroup", MountFlags::empty(), Some(options.as_c_str())) {
                Ok(()) => self.mounted.push(directory),
                // In use there: the runtime has to do without.
                Err(_) if is_new => fs::remove_dir(&directory)?,
                Err(_) => {}
            }
        }
        Ok(())
    }
}

impl Drop for Preparations {
    fn drop(&mut self) {
        // Removing a directory takes what others have mounted on it: the last run does it.
        let is_last = self.top.as_ref().is_some_and(|top| top.unlock().is_ok() && top.try_lock().is_ok());
        for directory in &self.mounted {
            let mut undone = unmount(directory, UnmountFlags::DETACH).map_err(std::io::Error::from);
            if is_last {
                undone = undone.and_then(|()| fs::remove_dir(directory));
            }
            if let Err(error) = undone {
                eprintln!("conformance: {directory} is left: {error}");
            }
        }
    }
}
