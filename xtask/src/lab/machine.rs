//! The lab's machine as QEMU's command line. Pure.
//!
//! ```text
//!   q35, emulated EPYC with SVM and nested paging ──► /dev/kvm in there is the real thing
//!     9p  lab-root    the host's /, read-only; the kernel's root
//!     9p  lab-share0  a --share, writable
//!     serial port     console  ──┐
//!     virtio-serial   stdin, stdout, stderr, control  ──┴─ each a donated socket: no path exists on the host
//! ```

use super::{Size, init, initramfs};
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// 9p tag of the host's root.
pub const ROOT_TAG: &str = "lab-root";

/// How both sides mount 9p. `msize` is what one virtio request can carry: 128 descriptors of a page.
pub const TRANSPORT: &str = "trans=virtio,version=9p2000.L,msize=512000";

/// How the host's root is cached: for ever, as it is read-only and a lab is short.
pub const CACHE: &str = "cache=loose";

/// Most memory of a machine with virtual functions, in MiB. QEMU (10.0) decodes the 64-bit BARs of its virtual functions by their lower
/// halves, and its firmware puts them above 4 GiB as soon as there is RAM: then they read zeros.
pub const MAX_SRIOV_MIB: u32 = 2048;

/// Every channel between host and lab; the name of a virtio-serial port is `lab.` and this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Kernel messages, by the UART.
    Console,
    /// To the command.
    Stdin,
    /// From the command.
    Stdout,
    /// From the command.
    Stderr,
    /// [`super::wire`].
    Control,
    /// QEMU's monitor.
    Monitor,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Console, Self::Stdin, Self::Stdout, Self::Stderr, Self::Control, Self::Monitor];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Control => "control",
            Self::Monitor => "monitor",
        }
    }
}

/// What to boot.
#[derive(Debug)]
pub struct Machine {
    /// CPUs and memory.
    pub size: Size,
    /// An uncompressed ELF kernel.
    pub kernel: PathBuf,
    /// This program, which is PID 1 in there, as the host's root shows it.
    pub init: PathBuf,
    /// Frequency of the time stamp counter, if known.
    pub tsc_khz: Option<u64>,
    /// Host directories to mount writable at the same path, each with its tag.
    pub shares: Vec<(String, PathBuf)>,
    /// An IOMMU, and a network adapter with virtual functions.
    pub sriov: bool,
    /// 9p keeps owners as they are; only root can.
    pub owners: bool,
}

/// A path that cannot be named on a kernel command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} has a space, quote or control character in its path, which a kernel command line cannot name (build in another directory: CARGO_TARGET_DIR)"
)]
pub struct BadPath(pub PathBuf);

impl Machine {
    /// QEMU's arguments. `fds` are the numbers of the donated sockets; `archive` is that of an initramfs with this program and
    /// what the kernel needs to find the host's root, `None` when the kernel needs nothing.
    ///
    /// # Errors
    /// An init that the kernel's command line cannot name.
    pub fn arguments(
        &self,
        fds: &[(Channel, RawFd)],
        archive: Option<RawFd>,
    ) -> Result<Vec<OsString>, BadPath> {
        let mut line = Line(Vec::new());
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.0.push(flag.into());
        }
        line.add("-name", "clear-lab,process=clear-lab");
        line.add("-display", "none");
        line.add("-machine", "q35,usb=off,sata=off,smbus=off,vmport=off");
        line.add("-accel", "tcg,thread=multi,tb-size=512");
        line.add("-cpu", "EPYC,+svm,+npt");
        line.add("-smp", self.size.cpus.to_string());
        let most = if self.sriov { MAX_SRIOV_MIB } else { u32::MAX };
        line.add("-m", format!("{}M", self.size.memory_mib.min(most)));
        line.add("-kernel", &self.kernel);
        line.add("-append", self.command_line(archive.is_some())?);
        if let Some(fd) = archive {
            line.add("-initrd", format!("/proc/self/fd/{fd}"));
        }
        if self.sriov {
            // First: it serves the devices that come after it.
            line.add("-device", "intel-iommu,intremap=on,caching-mode=on");
            line.add("-device", "pcie-root-port,id=slot0,chassis=1");
            line.add("-device", "igb,bus=slot0,id=nic0");
        }
        line.add("-device", "virtio-rng-pci");
        self.channels(&mut line, fds);
        self.share(&mut line, ROOT_TAG, Path::new("/"), ",readonly=on");
        for (tag, path) in &self.shares {
            self.share(&mut line, tag, path, "");
        }
        Ok(line.0)
    }

    fn command_line(&self, archive: bool) -> Result<String, BadPath> {
        let first = if archive {
            format!("rdinit={}", initramfs::INIT)
        } else {
            let plain = |path: &&str| path.chars().all(|c| c.is_ascii_graphic() && c != '"');
            let init = self.init.to_str().filter(plain).ok_or_else(|| BadPath(self.init.clone()))?;
            format!("root={ROOT_TAG} rootfstype=9p rootflags={TRANSPORT},{CACHE} ro init={init}")
        };
        // The emulator's time stamp counter is the host's: nothing to watch, and a busy host must not make it suspect.
        let frequency = self.tsc_khz.map(|khz| format!(" tsc_early_khz={khz}")).unwrap_or_default();
        let clock = format!("tsc=reliable{frequency} no_timer_check");
        // Network namespaces and cgroups go away in microseconds, not after grace periods.
        let grace = "rcupdate.rcu_expedited=1";
        // Built-in drivers that make a device though no one asked.
        let none = "dummy.numdummies=0";
        Ok(format!("{first} console=ttyS0 quiet panic=-1 {clock} {grace} {none} -- {}", init::COMMAND))
    }

    fn channels(&self, line: &mut Line, fds: &[(Channel, RawFd)]) {
        line.add("-device", "virtio-serial-pci,id=ports,max_ports=8");
        for (channel, fd) in fds {
            let name = channel.name();
            line.add("-chardev", format!("socket,id={name},fd={fd}"));
            match channel {
                Channel::Console => line.add("-serial", format!("chardev:{name}")),
                Channel::Monitor => line.add("-mon", format!("chardev={name},mode=readline")),
                _ => {
                    line.add("-device", format!("virtserialport,bus=ports.0,chardev={name},name=lab.{name}"))
                }
            }
        }
    }

    fn share(&self, line: &mut Line, tag: &str, path: &Path, more: &str) {
        let owners = if self.owners { "passthrough" } else { "none" };
        let mut value =
            OsString::from(format!("local,id={tag},security_model={owners},multidevs=remap{more},path="));
        value.push(escape(path.as_os_str()));
        line.add("-fsdev", value);
        line.add("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    }
}

struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, flag: &str, value: impl AsRef<OsStr>) {
        self.0.push(flag.into());
        self.0.push(value.as_ref().into());
    }
}

/// A comma ends a value in QEMU's option syntax unless doubled.
fn escape(text: &OsStr) -> OsString {
    let doubled =
        text.as_bytes().iter().flat_map(|&byte| if byte == b',' { vec![byte; 2] } else { vec![byte] });
    OsString::from_vec(doubled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            size: Size { cpus: 3, memory_mib: 700 },
            kernel: "/k/vmlinux".into(),
            init: "/c/target/debug/xtask".into(),
            tsc_khz: Some(2_600_000),
            shares: vec![("lab-share0".into(), "/srv/a,b".into())],
            sriov: false,
            owners: true,
        }
    }

    fn line(machine: &Machine) -> String {
        let fds = [(Channel::Console, 7), (Channel::Stdout, 8)];
        let words = machine.arguments(&fds, None).unwrap();
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_host_is_read_only_and_shares_are_not() {
        let line = line(&machine());
        assert!(
            line.contains(
                "-fsdev local,id=lab-root,security_model=passthrough,multidevs=remap,readonly=on,path=/ "
            ),
            "{line}"
        );
        assert!(line.contains("multidevs=remap,path=/srv/a,,b "), "commas must not end a value: {line}");
        assert!(line.contains("-smp 3 -m 700M"), "{line}");
    }

    #[test]
    fn only_root_keeps_owners() {
        let line = line(&Machine { owners: false, ..machine() });
        assert!(line.contains("security_model=none") && !line.contains("passthrough"), "{line}");
    }

    #[test]
    fn every_channel_is_a_donated_socket() {
        let line = line(&machine());
        assert!(line.contains("-chardev socket,id=console,fd=7 -serial chardev:console"), "{line}");
        assert!(line.contains("-chardev socket,id=stdout,fd=8 -device virtserialport,bus=ports.0,chardev=stdout,name=lab.stdout"), "{line}");
    }

    #[test]
    fn pass_through_needs_an_iommu_before_the_devices() {
        assert!(!line(&machine()).contains("iommu"));
        let line = line(&Machine { sriov: true, ..machine() });
        assert!(line.find("intel-iommu") < line.find("igb,bus=slot0"), "{line}");
    }

    #[test]
    fn virtual_functions_have_no_memory_above_4_gib_beside_them() {
        let size = Size { cpus: 1, memory_mib: 4096 };
        assert!(line(&Machine { size, ..machine() }).contains("-m 4096M"));
        assert!(line(&Machine { size, sriov: true, ..machine() }).contains("-m 2048M"));
    }

    #[test]
    fn an_archive_brings_its_own_init() {
        let words = Machine { init: "/a b/xtask".into(), ..machine() }.arguments(&[], Some(9)).unwrap();
        let line = words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        assert!(
            line.contains("-initrd /proc/self/fd/9") && line.contains("-append rdinit=/lab-init "),
            "{line}"
        );
        assert!(!line.contains("/a b/xtask"), "{line}");
    }

    #[test]
    fn the_kernel_is_told_the_time() {
        assert!(line(&machine()).contains(" tsc=reliable tsc_early_khz=2600000 "));
        assert!(line(&Machine { tsc_khz: None, ..machine() }).contains(" tsc=reliable no_timer_check "));
    }

    #[test]
    fn init_must_be_nameable() {
        assert!(line(&machine()).contains(" ro init=/c/target/debug/xtask "));
        for path in ["/a b/xtask", "/a\"/xtask", "/\u{e4}/xtask"] {
            let refused = Machine { init: path.into(), ..machine() }.arguments(&[], None);
            assert_eq!(refused, Err(BadPath(path.into())));
        }
    }
}
