//! virtio-serial ports by name. There is no udev in here that makes links to them.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};

/// Where the kernel lists them.
const LIST: &str = "/sys/class/virtio-ports";

/// Opens the port that the host calls `lab.<name>`.
///
/// # Errors
/// When there is none.
pub fn open(name: &str) -> Result<File> {
    let wanted = format!("lab.{name}");
    for entry in
        fs::read_dir(LIST).with_context(|| format!("listing {LIST} (no virtio console in this kernel?)"))?
    {
        let entry = entry.with_context(|| format!("listing {LIST}"))?;
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim_end() == wanted {
            let device = std::path::Path::new("/dev").join(entry.file_name());
            let open = File::options().read(true).write(true).open(&device);
            return open.with_context(|| format!("opening {} for {wanted}", device.display()));
        }
    }
    bail!("the machine has no port {wanted}")
}
